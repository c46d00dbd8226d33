"""An experiment from another trainer's file: Axolotl's or LLaMA-Factory's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import AGAIN, check_writable, write_file
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.evaluation.metric_choice import AUTO
from luthier.experiment import Experiment
from luthier.families import FAMILIES, family_of
from luthier.families.recognise import load_dataset
from luthier.pilot.stages.foreign_data import find_sets, locate, write_rows
from luthier.pilot.stages.foreign_keys import (
    DEFAULTS,
    FASTER,
    OPTIMIZERS,
    SCHEDULES,
    VARIANTS,
    KeyMap,
    is_set,
    map_keys,
    recognise_trainer,
    trains_adapters,
)
from luthier.studies.defaults import starting_experiment

LARGEST = 1 << 20
"""Bytes of a trainer's file."""
COUNTS = {"axolotl": "micro_batch_size", "llamafactory": "per_device_train_batch_size"}
ROWS = "rows"
"""What is no field: it is seen to where the rows are written."""
LENGTHS = ("objective.max_length", "objective.context")
"""What the length of a row is called, by what is learned."""


@dataclass(frozen=True)
class Imported:
    """What became of a trainer's file.

    Args:
        trainer: whose it is.
        experiment: the file that was written; None where nothing was.
        rows: the file of rows that was written; None where rows were given.
        mapped: key → field, value, note.
        ignored: key → why it changes nothing that is learned.
        refused: key → why it cannot be had here.
    """

    trainer: str
    experiment: Path | None
    rows: Path | None
    mapped: dict[str, tuple[str, Any, str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        places = {name: str(path) if path else None for name, path in (("experiment", self.experiment), ("rows", self.rows))}
        return asdict(self) | places


def import_config(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "experiment.yaml",
    data: str | os.PathLike[str] | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Imported:
    """Write an experiment from a file of Axolotl's or LLaMA-Factory's.

    Args:
        file: the trainer's YAML file; it is read as data, and nothing in it is run.
        out: the experiment that is written; the rows are written beside it, as .jsonl.
        data: rows that take the place of those that the file names; they are read as `luthier run` reads them.
        base: that takes the place of the file's.
        force: write the experiment without the keys that are refused.
        reporter: shows progress.

    Returns:
        The files, and each key of the trainer's file with what became of it. Where keys are refused and nobody insists, nothing is written.

    Raises:
        ExperimentError: it is no such file, what it learns is not known here, or `out` is there already.
        DataError: its rows are not to be had.
    """
    reporter = reporter or NullReporter()
    source, target = Path(file), Path(out)
    config = _read(source)
    trainer = recognise_trainer(config, str(source))
    task = _task(config, trainer, str(source))
    key_map = map_keys(config, trainer)
    _map_base(config, source, key_map, base)
    _map_adapters(config, key_map)
    _map_optimizer(config, trainer, key_map)
    _map_rest(config, trainer, key_map)
    if key_map.refused and not force:
        return Imported(trainer, None, None, key_map.mapped, key_map.ignored, key_map.refused)
    rows = target.with_suffix(".jsonl")
    for path in (target, *([] if data else [rows])):
        if path.exists():
            raise ExperimentError(f"{path} is there already", "choose another --out")
    check_writable(target)
    try:
        if data is None:
            write_rows(find_sets(config, trainer, source), source, rows, reporter.say)
        dataset = load_dataset(Data(path=str(data or rows), task=task))
        write_file(target, _experiment(dataset, config, key_map).yaml(), AGAIN)
    except BaseException:
        if data is None:
            rows.unlink(missing_ok=True)  # else the next try would meet them
        raise
    return Imported(trainer, target, None if data else rows, key_map.mapped, key_map.ignored, key_map.refused)


def _read(file: Path) -> Mapping[str, Any]:
    """A trainer's file as data: no tag of YAML that makes anything but plain values is followed."""
    try:
        if file.stat().st_size > LARGEST:
            raise ExperimentError(f"{file} has {file.stat().st_size:,} bytes, more than such a file has", "give the trainer's YAML file")
        config = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ExperimentError(f"there is no file {file}", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise ExperimentError(f"{file} is not YAML: {str(problem).splitlines()[0]}", "give the trainer's YAML file") from None
    if not isinstance(config, dict):
        raise ExperimentError(f"{file} does not hold keys and values", "give the trainer's YAML file")
    return {str(key): value for key, value in config.items()}


def _task(config: Mapping[str, Any], trainer: str, file: str) -> str:
    """The family that learns what the file asks for."""
    if trainer == "llamafactory":
        stage = str(config.get("stage") or "sft")
    else:
        datasets = config.get("datasets") or []
        first = datasets[0] if isinstance(datasets, list) and datasets and isinstance(datasets[0], Mapping) else {}
        text = config.get("pretraining_dataset") or str(first.get("type")).startswith(("completion", "pretrain"))
        stage = str(config.get("rl") or ("pt" if text else "sft"))
        if is_set(config.get("reward_model")) or is_set(config.get("process_reward_model")):
            stage = "rm"
    known = {word: name for name in FAMILIES for word in family_of(name).known_as}
    if stage not in known:
        raise ExperimentError(f"{file} learns by {stage!r}, which no family here does", f"known are {', '.join(sorted(known))}")
    return known[stage]


def _map_base(config: Mapping[str, Any], file: Path, key_map: KeyMap, base: str | None) -> None:
    """The base: a person's word, an adapter that training goes on from, or the file's own."""
    keys = [key for key in ("lora_model_dir", "adapter_name_or_path", "base_model", "model_name_or_path") if is_set(config.get(key))]
    if not keys and base is None:
        raise ExperimentError(f"{file} names no base", "give one: --base NAME")
    if base is not None:
        for key in keys:
            key_map.mapped.pop(key, None)
            key_map.ignored[key] = f"--base {base} takes its place"
        key_map.mapped["--base"] = ("model.base", base, "")
        return
    name = str(config[keys[0]])
    where = str(locate(name, file)) if locate(name, file).exists() else name
    note = "its adapter is folded into its base first" if keys[0] in ("lora_model_dir", "adapter_name_or_path") else ""
    for key in keys[1:]:
        key_map.mapped.pop(key, None)
        key_map.ignored[key] = f"{keys[0]} names the base itself"
    key_map.mapped[keys[0]] = ("model.base", where, note)


def _map_adapters(config: Mapping[str, Any], key_map: KeyMap) -> None:
    kind = config.get("finetuning_type", "lora" if "stage" in config else None) or config.get("adapter")
    key = "finetuning_type" if "finetuning_type" in config or "stage" in config else "adapter"
    if kind not in (None, "", "full", "lora", "qlora"):
        key_map.refused[key] = (
            f"{kind} is not here: full and lora are, and --set adaptation.kind=freeze, adaptation.depth=BLOCKS afterwards"
        )
        return
    if not trains_adapters(config):
        key_map.mapped[key] = ("adaptation.kind", "full", "no adapter is named" if not kind else "")
        return
    key_map.mapped[key] = ("adaptation.kind", "lora", "the base stays in 16 or 32 bits" if kind == "qlora" else "")
    if key == "finetuning_type":
        rank = _parse_whole(config, "lora_rank", 8)
        for name, path, value in (
            ("lora_rank", "adaptation.rank", 8),
            ("lora_alpha", "adaptation.alpha", 2.0 * rank),
            ("lora_dropout", "adaptation.dropout", 0.0),
        ):
            if config.get(name) is None:
                key_map.mapped[name] = (path, value, "llamafactory's default")
    target_modules = config.get("lora_target") if key == "finetuning_type" else config.get("lora_target_modules")
    targets = [target.strip() for target in target_modules.split(",")] if isinstance(target_modules, str) else list(target_modules or [])
    if is_set(config.get("lora_target_linear")) or targets in ([], ["all"], ["all-linear"]):
        targets = ["*"]
    name = next(
        (option for option in ("lora_target_linear", "lora_target", "lora_target_modules") if is_set(config.get(option))), "lora_target"
    )
    outside = [target for target in targets if target.split(".")[-1] in ("embed_tokens", "lm_head", "wte")]
    if outside:
        key_map.refused[name] = f"adapters stand inside the blocks here, not beside {', '.join(outside)}"
    key_map.mapped[name] = ("adaptation.targets", [target for target in targets if target not in outside] or ["*"], "")


def _map_optimizer(config: Mapping[str, Any], trainer: str, key_map: KeyMap) -> None:
    key, schedule_key = ("optim", "lr_scheduler_type") if trainer == "llamafactory" else ("optimizer", "lr_scheduler")
    name = str(config.get(key) or DEFAULTS[trainer][key])
    plain = name
    for ending in VARIANTS:
        plain = plain.replace(ending, "")
    if plain in OPTIMIZERS:
        key_map.mapped[key] = (
            "optimizer.kind",
            OPTIMIZERS[plain],
            f"{name} computes the same with numbers of fewer bits" if "bit" in name else "",
        )
    else:
        key_map.refused[key] = f"there is no optimizer {name} here: {', '.join(sorted({*OPTIMIZERS.values()}))} are"
    betas = [config.get(name) for name in ("adam_beta1", "adam_beta2")]
    if any(is_set(beta) for beta in betas):
        key_map.mapped["adam_beta1, adam_beta2"] = ("optimizer.betas", [float(betas[0] or 0.9), float(betas[1] or 0.999)], "")
    schedule = str(config.get(schedule_key) or DEFAULTS[trainer][schedule_key])
    if schedule in SCHEDULES:
        key_map.mapped[schedule_key] = ("schedule.kind", SCHEDULES[schedule], "" if config.get(schedule_key) else f"{trainer}'s default")
    else:
        key_map.refused[schedule_key] = f"there is no schedule {schedule} here: {', '.join(sorted({*SCHEDULES.values()}))} and wsd are"


def _map_rest(config: Mapping[str, Any], trainer: str, key_map: KeyMap) -> None:
    """What needs a look at several keys: rows a step, the length of rows, the loss of pairs, tokens."""
    rows, times = (_parse_whole(config, key, DEFAULTS[trainer][key]) for key in (COUNTS[trainer], "gradient_accumulation_steps"))
    if trainer == "axolotl" and is_set(config.get("batch_size")) and not is_set(config.get("gradient_accumulation_steps")):
        rows, times = _parse_whole(config, "batch_size", 1), 1
    key_map.mapped[f"{COUNTS[trainer]} × gradient_accumulation_steps"] = (
        "training.batch_size",
        rows * times,
        f"{rows} × {times}, on one device",
    )
    steps = key_map.mapped.get("max_steps")
    if steps is not None and steps[1] == -1:  # as both trainers write that epochs count
        del key_map.mapped["max_steps"]
    length = config.get("sequence_len") or config.get("cutoff_len")
    if is_set(length):
        key_map.mapped["sequence_len" if "sequence_len" in config else "cutoff_len"] = (
            LENGTHS[0],
            _parse_whole(config, "sequence_len" if "sequence_len" in config else "cutoff_len", 0),
            "",
        )
    if is_set(config.get("bf16")):
        key_map.mapped["bf16"] = ("training.dtype", "auto", "bfloat16 where the processor multiplies it fast")
    loss = config.get("pref_loss") or (config.get("rl") if config.get("rl") == "ipo" else None)
    if is_set(loss):
        key, losses = "pref_loss" if config.get("pref_loss") else "rl", {"sigmoid": "dpo", "ipo": "ipo"}
        if loss in losses:
            key_map.mapped[key] = ("objective.loss", losses[str(loss)], "")
        else:
            key_map.refused[key] = f"the loss {loss} is not here: {', '.join(losses)} are"
    for key in ("special_tokens", "eot_tokens"):
        tokens = config.get(key)
        if is_set(tokens):
            added = [name for name in tokens if name != "pad_token"] if isinstance(tokens, Mapping) else tokens
            if added and key == "special_tokens":
                key_map.refused[key] = (
                    f"{', '.join(map(str, added))}: the base's own marks are kept; where these are the same ones, add --force"
                )
            else:
                key_map.ignored[key] = (
                    "rows are packed: nothing is padded" if key == "special_tokens" else "the end of an answer is the chat template's own"
                )
    plugins = config.get("plugins") or []
    others = [str(plugin) for plugin in (plugins if isinstance(plugins, list) else [plugins]) if not str(plugin).endswith(FASTER)]
    if others:
        key_map.refused["plugins"] = f"functions of another trainer are not run: {', '.join(others)}"
    elif plugins:
        key_map.ignored["plugins"] = "they compute the same, faster"
    for key in ("max_samples", "default_system", "default_system_message"):
        if is_set(config.get(key)):
            key_map.mapped[key] = (ROWS, config[key], "in the rows that are written")


def _parse_whole(config: Mapping[str, Any], key: str, usual: int) -> int:
    """A key's value as a whole number above zero; what is usual where it says nothing.

    Raises:
        ExperimentError: it is none.
    """
    value = config.get(key)
    if not is_set(value) or value == 0:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdigit():
        raise ExperimentError(f"{key}: {value!r} is no whole number above 0", "mend the value in the file")
    return int(value)


def _experiment(dataset: Dataset, config: Mapping[str, Any], key_map: KeyMap) -> Experiment:
    """The default for these rows, with everything that the file says in its place."""
    experiment, _ = starting_experiment(dataset, None, 1, AUTO)
    changes = {path: value for path, value, _ in key_map.mapped.values() if path != ROWS}
    if LENGTHS[0] in changes and LENGTHS[0].partition(".")[2] not in type(experiment.objective).model_fields:
        changes[LENGTHS[1]] = changes.pop(LENGTHS[0])
        key = "sequence_len" if "sequence_len" in config else "cutoff_len"
        key_map.mapped[key] = (LENGTHS[1], changes[LENGTHS[1]], "")
    for path in sorted(changes, key=lambda path: not path.endswith(".kind")):
        try:
            experiment = experiment.replace(path, float(changes[path]) if path in ("optimizer.lr", "optimizer.eps") else changes[path])
        except (ExperimentError, ValueError, TypeError) as problem:
            key = next(key for key, (where, _, _) in key_map.mapped.items() if where == path)
            raise ExperimentError(
                f"{key}: {changes[path]!r} does not fit {path}: {getattr(problem, 'message', problem)}", "mend the value in the file"
            ) from None
    steps = _parse_whole(config, "warmup_steps", 0)
    if steps and "schedule.warmup" not in changes:
        share = min(0.9, steps / experiment.planned_steps(len(dataset.records["train"])))
        key_map.mapped["warmup_steps"] = (
            "schedule.warmup",
            round(share, 6),
            f"{steps} of {experiment.planned_steps(len(dataset.records['train']))} steps",
        )
        experiment = experiment.replace("schedule.warmup", round(share, 6))
    return experiment
