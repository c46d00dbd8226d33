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
from luthier.studies.defaults import choose

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
        places = {name: str(place) if place else None for name, place in (("experiment", self.experiment), ("rows", self.rows))}
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
    said = _read(source)
    trainer = recognise_trainer(said, str(source))
    task = _task(said, trainer, str(source))
    found = map_keys(said, trainer)
    _map_base(said, source, found, base)
    _map_adapters(said, found)
    _map_optimizer(said, trainer, found)
    _map_rest(said, trainer, found)
    if found.refused and not force:
        return Imported(trainer, None, None, found.mapped, found.ignored, found.refused)
    rows = target.with_suffix(".jsonl")
    for place in (target, *([] if data else [rows])):
        if place.exists():
            raise ExperimentError(f"{place} is there already", "choose another --out")
    check_writable(target)
    try:
        if data is None:
            write_rows(find_sets(said, trainer, source), source, rows, reporter.say)
        dataset = load_dataset(Data(path=str(data or rows), task=task))
        write_file(target, _experiment(dataset, said, found).yaml(), AGAIN)
    except BaseException:
        if data is None:
            rows.unlink(missing_ok=True)  # else the next try would meet them
        raise
    return Imported(trainer, target, None if data else rows, found.mapped, found.ignored, found.refused)


def _read(file: Path) -> Mapping[str, Any]:
    """A trainer's file as data: no tag of YAML that makes anything but plain values is followed."""
    try:
        if file.stat().st_size > LARGEST:
            raise ExperimentError(f"{file} has {file.stat().st_size:,} bytes, more than such a file has", "give the trainer's YAML file")
        said = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ExperimentError(f"there is no file {file}", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise ExperimentError(f"{file} is not YAML: {str(problem).splitlines()[0]}", "give the trainer's YAML file") from None
    if not isinstance(said, dict):
        raise ExperimentError(f"{file} does not hold keys and values", "give the trainer's YAML file")
    return {str(key): value for key, value in said.items()}


def _task(said: Mapping[str, Any], trainer: str, file: str) -> str:
    """The family that learns what the file asks for."""
    if trainer == "llamafactory":
        asked = str(said.get("stage") or "sft")
    else:
        datasets = said.get("datasets") or []
        first = datasets[0] if isinstance(datasets, list) and datasets and isinstance(datasets[0], Mapping) else {}
        text = said.get("pretraining_dataset") or str(first.get("type")).startswith(("completion", "pretrain"))
        asked = str(said.get("rl") or ("pt" if text else "sft"))
        if is_set(said.get("reward_model")) or is_set(said.get("process_reward_model")):
            asked = "rm"
    known = {word: name for name in FAMILIES for word in family_of(name).known_as}
    if asked not in known:
        raise ExperimentError(f"{file} learns by {asked!r}, which no family here does", f"known are {', '.join(sorted(known))}")
    return known[asked]


def _map_base(said: Mapping[str, Any], file: Path, found: KeyMap, base: str | None) -> None:
    """The base: a person's word, an adapter that training goes on from, or the file's own."""
    keys = [key for key in ("lora_model_dir", "adapter_name_or_path", "base_model", "model_name_or_path") if is_set(said.get(key))]
    if not keys and base is None:
        raise ExperimentError(f"{file} names no base", "give one: --base NAME")
    if base is not None:
        for key in keys:
            found.mapped.pop(key, None)
            found.ignored[key] = f"--base {base} takes its place"
        found.mapped["--base"] = ("model.base", base, "")
        return
    named = str(said[keys[0]])
    where = str(locate(named, file)) if locate(named, file).exists() else named
    note = "its adapter is folded into its base first" if keys[0] in ("lora_model_dir", "adapter_name_or_path") else ""
    for key in keys[1:]:
        found.mapped.pop(key, None)
        found.ignored[key] = f"{keys[0]} names the base itself"
    found.mapped[keys[0]] = ("model.base", where, note)


def _map_adapters(said: Mapping[str, Any], found: KeyMap) -> None:
    kind = said.get("finetuning_type", "lora" if "stage" in said else None) or said.get("adapter")
    key = "finetuning_type" if "finetuning_type" in said or "stage" in said else "adapter"
    if kind not in (None, "", "full", "lora", "qlora"):
        found.refused[key] = f"{kind} is not here: full and lora are, and --set adaptation.kind=freeze, adaptation.depth=BLOCKS afterwards"
        return
    if not trains_adapters(said):
        found.mapped[key] = ("adaptation.kind", "full", "no adapter is named" if not kind else "")
        return
    found.mapped[key] = ("adaptation.kind", "lora", "the base stays in 16 or 32 bits" if kind == "qlora" else "")
    if key == "finetuning_type":
        rank = _whole(said, "lora_rank", 8)
        for name, path, value in (
            ("lora_rank", "adaptation.rank", 8),
            ("lora_alpha", "adaptation.alpha", 2.0 * rank),
            ("lora_dropout", "adaptation.dropout", 0.0),
        ):
            if said.get(name) is None:
                found.mapped[name] = (path, value, "llamafactory's default")
    named = said.get("lora_target") if key == "finetuning_type" else said.get("lora_target_modules")
    targets = [each.strip() for each in named.split(",")] if isinstance(named, str) else list(named or [])
    if is_set(said.get("lora_target_linear")) or targets in ([], ["all"], ["all-linear"]):
        targets = ["*"]
    name = next((each for each in ("lora_target_linear", "lora_target", "lora_target_modules") if is_set(said.get(each))), "lora_target")
    outside = [each for each in targets if each.split(".")[-1] in ("embed_tokens", "lm_head", "wte")]
    if outside:
        found.refused[name] = f"adapters stand inside the blocks here, not beside {', '.join(outside)}"
    found.mapped[name] = ("adaptation.targets", [each for each in targets if each not in outside] or ["*"], "")


def _map_optimizer(said: Mapping[str, Any], trainer: str, found: KeyMap) -> None:
    key, schedule_key = ("optim", "lr_scheduler_type") if trainer == "llamafactory" else ("optimizer", "lr_scheduler")
    name = str(said.get(key) or DEFAULTS[trainer][key])
    plain = name
    for ending in VARIANTS:
        plain = plain.replace(ending, "")
    if plain in OPTIMIZERS:
        found.mapped[key] = (
            "optimizer.kind",
            OPTIMIZERS[plain],
            f"{name} computes the same with numbers of fewer bits" if "bit" in name else "",
        )
    else:
        found.refused[key] = f"there is no optimizer {name} here: {', '.join(sorted({*OPTIMIZERS.values()}))} are"
    betas = [said.get(name) for name in ("adam_beta1", "adam_beta2")]
    if any(is_set(beta) for beta in betas):
        found.mapped["adam_beta1, adam_beta2"] = ("optimizer.betas", [float(betas[0] or 0.9), float(betas[1] or 0.999)], "")
    schedule = str(said.get(schedule_key) or DEFAULTS[trainer][schedule_key])
    if schedule in SCHEDULES:
        found.mapped[schedule_key] = ("schedule.kind", SCHEDULES[schedule], "" if said.get(schedule_key) else f"{trainer}'s default")
    else:
        found.refused[schedule_key] = f"there is no schedule {schedule} here: {', '.join(sorted({*SCHEDULES.values()}))} and wsd are"


def _map_rest(said: Mapping[str, Any], trainer: str, found: KeyMap) -> None:
    """What needs a look at several keys: rows a step, the length of rows, the loss of pairs, tokens."""
    each, times = (_whole(said, key, DEFAULTS[trainer][key]) for key in (COUNTS[trainer], "gradient_accumulation_steps"))
    if trainer == "axolotl" and is_set(said.get("batch_size")) and not is_set(said.get("gradient_accumulation_steps")):
        each, times = _whole(said, "batch_size", 1), 1
    found.mapped[f"{COUNTS[trainer]} × gradient_accumulation_steps"] = (
        "training.batch_size",
        each * times,
        f"{each} × {times}, on one device",
    )
    steps = found.mapped.get("max_steps")
    if steps is not None and steps[1] == -1:  # as both trainers write that epochs count
        del found.mapped["max_steps"]
    length = said.get("sequence_len") or said.get("cutoff_len")
    if is_set(length):
        found.mapped["sequence_len" if "sequence_len" in said else "cutoff_len"] = (
            LENGTHS[0],
            _whole(said, "sequence_len" if "sequence_len" in said else "cutoff_len", 0),
            "",
        )
    if is_set(said.get("bf16")):
        found.mapped["bf16"] = ("training.dtype", "auto", "bfloat16 where the processor multiplies it fast")
    loss = said.get("pref_loss") or (said.get("rl") if said.get("rl") == "ipo" else None)
    if is_set(loss):
        key, known = "pref_loss" if said.get("pref_loss") else "rl", {"sigmoid": "dpo", "ipo": "ipo"}
        if loss in known:
            found.mapped[key] = ("objective.loss", known[str(loss)], "")
        else:
            found.refused[key] = f"the loss {loss} is not here: {', '.join(known)} are"
    for key in ("special_tokens", "eot_tokens"):
        tokens = said.get(key)
        if is_set(tokens):
            added = [name for name in tokens if name != "pad_token"] if isinstance(tokens, Mapping) else tokens
            if added and key == "special_tokens":
                found.refused[key] = (
                    f"{', '.join(map(str, added))}: the base's own marks are kept; where these are the same ones, add --force"
                )
            else:
                found.ignored[key] = (
                    "rows are packed: nothing is padded" if key == "special_tokens" else "the end of an answer is the chat template's own"
                )
    plugins = said.get("plugins") or []
    others = [str(each) for each in (plugins if isinstance(plugins, list) else [plugins]) if not str(each).endswith(FASTER)]
    if others:
        found.refused["plugins"] = f"functions of another trainer are not run: {', '.join(others)}"
    elif plugins:
        found.ignored["plugins"] = "they compute the same, faster"
    for key in ("max_samples", "default_system", "default_system_message"):
        if is_set(said.get(key)):
            found.mapped[key] = (ROWS, said[key], "in the rows that are written")


def _whole(said: Mapping[str, Any], key: str, usual: int) -> int:
    """A key's value as a whole number above zero; what is usual where it says nothing.

    Raises:
        ExperimentError: it is none.
    """
    value = said.get(key)
    if not is_set(value) or value == 0:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdigit():
        raise ExperimentError(f"{key}: {value!r} is no whole number above 0", "mend the value in the file")
    return int(value)


def _experiment(dataset: Dataset, said: Mapping[str, Any], found: KeyMap) -> Experiment:
    """The default for these rows, with everything that the file says in its place."""
    experiment, _ = choose(dataset, None, 1, AUTO)
    changes = {path: value for path, value, _ in found.mapped.values() if path != ROWS}
    if LENGTHS[0] in changes and LENGTHS[0].partition(".")[2] not in type(experiment.objective).model_fields:
        changes[LENGTHS[1]] = changes.pop(LENGTHS[0])
        key = "sequence_len" if "sequence_len" in said else "cutoff_len"
        found.mapped[key] = (LENGTHS[1], changes[LENGTHS[1]], "")
    for path in sorted(changes, key=lambda path: not path.endswith(".kind")):
        try:
            experiment = experiment.replace(path, float(changes[path]) if path in ("optimizer.lr", "optimizer.eps") else changes[path])
        except (ExperimentError, ValueError, TypeError) as problem:
            key = next(key for key, (where, _, _) in found.mapped.items() if where == path)
            raise ExperimentError(
                f"{key}: {changes[path]!r} does not fit {path}: {getattr(problem, 'message', problem)}", "mend the value in the file"
            ) from None
    steps = _whole(said, "warmup_steps", 0)
    if steps and "schedule.warmup" not in changes:
        share = min(0.9, steps / experiment.planned_steps(len(dataset.records["train"])))
        found.mapped["warmup_steps"] = (
            "schedule.warmup",
            round(share, 6),
            f"{steps} of {experiment.planned_steps(len(dataset.records['train']))} steps",
        )
        experiment = experiment.replace("schedule.warmup", round(share, 6))
    return experiment
