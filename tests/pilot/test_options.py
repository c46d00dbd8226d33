"""What is asked for, and what follows from it where nothing was said."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import luthier
from luthier.core.errors import ExperimentError, ModelError
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.experiment import Experiment
from luthier.families import FAMILIES, family_of
from luthier.families.recognise import load_dataset
from luthier.pilot.stages import base_choice
from luthier.pilot.stages.options import data_spec, default_experiment, limit_to_positions
from tests.families.cases import sentence_pairs


def write(folder: Path, count: int, classes: int) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [("text", "label"), *((f"note {row} of topic {row % classes}", f"topic {row % classes}") for row in range(count))]
        )
    return path


@pytest.mark.parametrize(
    "count, classes, set, batch",
    [
        (1250, 2, (), 32),
        (1250, 20, (), 16),  # more classes need more steps
        (375, 2, (), 16),
        (1250, 2, ("training.epochs=1",), 4),  # a choice that hangs on another follows it
        (1250, 2, ("training.epochs=1", "training.batch_size=64"), 64),
    ],
)
def test_a_step_has_as_many_rows_as_leave_the_run_steps_enough(
    tmp_path: Path, count: int, classes: int, set: tuple[str, ...], batch: int
) -> None:
    experiment, _, choices = default_experiment(write(tmp_path, count, classes), set, NullReporter(), target=None, input=None, base=None, task=None, seed=1)  # fmt: skip
    assert experiment.training.batch_size == batch
    assert [choice.value for choice in choices if choice.path == "training.batch_size"] in ([batch], [str(batch)])


def test_a_decoder_that_classifies_keeps_its_lower_half_and_what_is_asked_brings_its_rate(tmp_path: Path, bases: Any) -> None:
    data, decoder = write(tmp_path, 100, 2), str(bases("llama").folder)

    def default(*set: str, base: str | None = None) -> Any:
        return default_experiment(data, set, NullReporter(), target=None, input=None, base=base, task=None, seed=1)[0]

    kept = default(base=decoder)
    assert (kept.adaptation.kind, kept.adaptation.depth, kept.optimizer.lr, kept.model.dropout) == ("freeze", 1, 6e-4, 0.0)
    assert default(f"model.base={decoder}") == kept  # however it is named
    whole = default("adaptation.kind=full", base=decoder)
    assert (whole.adaptation.kind, whole.optimizer.lr) == ("full", 3e-4)
    _, _, choices = default_experiment(
        data, ("adaptation.kind=full",), NullReporter(), target=None, input=None, base=decoder, task=None, seed=1
    )
    assert [choice.path for choice in choices if choice.path.startswith("adaptation.")] == ["adaptation.kind"]
    assert default("adaptation.depth=0", base=decoder).adaptation.depth == 0
    gentler = default(base=str(bases("gemma3_text").folder))
    assert (gentler.adaptation.kind, gentler.optimizer.lr) == ("freeze", 1e-4)
    encoder = default(base=str(bases("bert").folder))
    assert (encoder.adaptation.kind, encoder.optimizer.lr) == ("full", 1e-4)
    assert default("adaptation.kind=freeze", base=str(bases("bert").folder)).optimizer.lr == 3e-4


def test_a_run_can_be_the_base_and_what_names_none_is_refused(tmp_path: Path, bases: Any) -> None:
    data, folder = write(tmp_path, 100, 2), bases("bert").folder

    def default(base: Any) -> Any:
        return default_experiment(data, (), NullReporter(), target=None, input=None, base=base, task=None, seed=1)[0]

    assert default(Run(folder)) == default(folder) == default(str(folder))
    with pytest.raises(ExperimentError, match="the base is 5"):
        default(5)


@pytest.mark.parametrize(
    "change, said",
    [
        ("objective.labels=[a,b]", r"objective.labels names a, b, and the rows have topic 0, topic 1[\s\S]*'topic 0' too"),
        ("objective.labels=['topic 0']", "'topic 1' too"),
        ("objective.labels=['topic 0','topic 1',c]", "name the classes of the rows"),
        ("objective.kind=regression", "objective.kind is 'regression', but the rows are for classification"),
    ],
)
def test_an_objective_for_other_rows_is_refused_by_its_field(tmp_path: Path, change: str, said: str) -> None:
    data = write(tmp_path, 100, 2)
    with pytest.raises(ExperimentError, match=said):
        default_experiment(data, (change,), NullReporter(), target=None, input=None, base=None, task=None, seed=1)
    turned = default_experiment(
        data, ("objective.labels=['topic 1','topic 0']",), NullReporter(), target=None, input=None, base=None, task=None, seed=1
    )[0]
    assert turned.model_dump()["objective"]["labels"] == ("topic 1", "topic 0")


def test_a_base_of_another_kind_is_refused_when_the_run_is_planned(tmp_path: Path, bases: Any) -> None:
    data = write(tmp_path, 100, 2)
    with pytest.raises(ModelError, match="is a decoder, and masked_lm is trained on an encoder"):
        default_experiment(data, (), NullReporter(), target=None, input=None, base=str(bases("llama").folder), task="masked_lm", seed=1)


def test_a_familys_own_base_starts_from_the_same_values_named_or_not(tmp_path: Path, bases: Any, monkeypatch: Any) -> None:
    name = "masked_lm"  # it could start from scratch too
    monkeypatch.setattr(family_of(name), "base", str(bases("bert").folder))
    data = write(tmp_path, 100, 2)

    def default(base: str | None, *set: str) -> Any:
        return default_experiment(data, set, NullReporter(), target=None, input=None, base=base, task=name, seed=1)[0]

    assert default(None) == default(family_of(name).base)
    assert default(None, "adaptation.kind=lora") == default(family_of(name).base, "adaptation.kind=lora")
    assert default("scratch").optimizer.lr > default(None).optimizer.lr


def test_an_encoder_of_berts_size_starts_from_half_of_a_small_ones_rate(tmp_path: Path, bases: Any) -> None:
    data, wide = write(tmp_path, 100, 2), shutil.copytree(bases("bert").folder, tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "hidden_size": 768}))
    for base, rate in ((bases("bert").folder, 1e-4), (wide, 5e-5)):
        experiment, _, _ = default_experiment(data, (), NullReporter(), target=None, input=None, base=str(base), task=None, seed=1)
        assert experiment.optimizer.lr == rate


def test_gemma_writes_from_a_gentler_rate_where_its_own_weights_move(tmp_path: Path, bases: Any) -> None:
    data, gemma = tmp_path / "chat.jsonl", str(bases("gemma3_text").folder)
    data.write_text("".join(json.dumps({"prompt": f"what is {n}?", "completion": f"it is {n * n}"}) + "\n" for n in range(80)))

    def rate(*set: str, base: str) -> float:
        return default_experiment(data, set, NullReporter(), target=None, input=None, base=base, task=None, seed=1)[0].optimizer.lr

    assert rate(base=gemma) == 2e-5
    assert rate("adaptation.kind=lora", base=gemma) == rate("adaptation.kind=lora", base=str(bases("llama").folder)) == 3e-4
    assert rate(base=str(bases("llama").folder)) == 1e-4


def test_auto_takes_the_base_that_foresees_the_answers_best_of_those_that_are_here_and_that_the_time_suffices_for(
    tmp_path: Path, bases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    for name, scale in (
        ("smollm2-135m", 20.0),
        ("gemma3-270m", 0.0),
    ):  # one is sure of the wrong words, the other knows that it knows nothing
        folder = tmp_path / "home" / "models" / name
        shutil.copytree(bases("llama").folder, folder)
        weights = {key: value * scale for key, value in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": (folder / "model.safetensors").stat().st_size}))
    rows = [{"prompt": f"what is {row} and {row + 1}?", "completion": f"{2 * row + 1}, as far as I know"} for row in range(60)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def default(*set: str, base: str | None = None, seconds: float | None = None) -> Any:
        found = default_experiment(
            tmp_path / "chat.jsonl", set, NullReporter(), target=None, input=None, base=base, task=None, seed=1, seconds=seconds
        )
        return found[0], next(choice.reason for choice in found[2] if choice.path == "model.base")

    assert default()[0].model.base == "smollm2-135m"
    best, why = default(base="auto")
    assert best.model.base == "gemma3-270m"
    assert why.endswith("gemma3-270m 100%, smollm2-135m 0%")
    assert default("model.base=auto")[0] == best
    cheapest, why = default(base="auto", seconds=1e-3)
    assert cheapest.model.base == "smollm2-135m" and why == "the only one that the time suffices for"
    shutil.rmtree(tmp_path / "home" / "models" / "gemma3-270m")
    alone, why = default(base="auto")
    assert alone.model.base == "smollm2-135m" and why == "the only one that is here and fits the task"


def test_auto_leaves_a_base_that_would_take_longer_than_there_is_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bases: Any) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    for name, family in (("minilm-l6", "bert"), ("mpnet-base", "mpnet")):
        folder = tmp_path / "home" / "models" / name
        shutil.copytree(bases(family).folder, folder)
        (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": (folder / "model.safetensors").stat().st_size}))
    dataset = load_dataset(data_spec(write(tmp_path, 200, 2)))
    read, known = [], base_choice.compare_base

    def slow(base: Any, *given: Any) -> Any:
        read.append(replace(known(base, *given), seconds={"minilm-l6": 1.0, "mpnet-base": 60.0}[base.name]))
        return read[-1]

    monkeypatch.setattr(base_choice, "compare_base", slow)
    chances = {"minilm-l6": 0.3, "mpnet-base": 0.7}  # a tie for `rank_bases`, which proposes the larger; here the likelier is taken
    monkeypatch.setattr(base_choice, "rank_bases", lambda found: [replace(one, chance=chances[one.base]) for one in found])
    assert base_choice.choose_base(dataset, None, NullReporter())[0].name == "mpnet-base"
    base, why = base_choice.choose_base(dataset, 1800.0, NullReporter())
    assert base.name == "minilm-l6"
    assert why.endswith("the time does not suffice for mpnet-base (some 1890 s)")
    assert {one.rows for one in read} == {160}


def test_no_more_tokens_are_read_at_once_than_a_base_can_place_and_that_is_said(tmp_path: Path, bases: Any) -> None:
    data = tmp_path / "rows.csv"
    lines = [f"{'a long note of many words ' * 30} {row} of topic {row % 2},topic {row % 2}" for row in range(60)]
    data.write_text("text,label\n" + "\n".join(lines))

    def asked(*set: str) -> tuple[Any, dict[str, Any]]:
        found = default_experiment(data, set, NullReporter(), target=None, input=None, base=str(bases("bert").folder), task=None, seed=1)
        return found[0], {choice.path: choice for choice in found[2]}

    for set, before in (((), 256), (("objective.max_length=512",), 512)):
        experiment, choices = asked(*set)
        assert experiment.objective.max_length == choices["objective.max_length"].value == 128
        assert choices["objective.max_length"].reason.endswith(f"can place 128 tokens of a text, and {before} were to be read at once")
    assert asked("objective.max_length=64")[0].objective.max_length == 64
    written_down = Experiment.of({**experiment.model_dump(mode="json"), "training": {"steps": 2, "batch_size": 4}}).replace(
        "objective.max_length", 256
    )
    run = luthier.train(written_down, out=tmp_path / "run", force=True)
    assert Experiment.load(run.folder / "experiment.yaml").objective.max_length == 128  # type: ignore[attr-defined]
    assert run.events_named("shorter")[0]["value"] == 128
    assert luthier.predict(run.folder, ["many words " * 60])[0]["label"] in ("topic 0", "topic 1")


@pytest.mark.parametrize("name", [name for name in FAMILIES if family_of(name).Spec is not None])
def test_every_family_that_says_how_much_it_reads_at_once_reads_what_a_base_can_place(name: str, bases: Any) -> None:
    base = replace(bases("bert"), positions=20)
    parts = {"adaptation": {"kind": "full"}, "optimizer": {"kind": "adamw", "lr": 1e-3}, "schedule": {"kind": "linear"}}
    experiment = Experiment.of({"data": {"path": "rows.csv"}, "objective": {"kind": name}, **parts})
    found, choice = limit_to_positions(experiment, base)
    assert max(getattr(found.objective, field, 0) for field in ("max_length", "context")) <= 20
    assert (choice is None) == (found == experiment)
    assert limit_to_positions(experiment, replace(base, positions=0)) == limit_to_positions(experiment, None) == (experiment, None)


def test_a_vocabulary_that_the_texts_do_not_hold_is_said_with_the_one_that_they_do(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in sentence_pairs()))

    def chosen(asked: int) -> tuple[int, list[Any]]:
        set = (f"objective.vocabulary={asked}",)
        experiment, _, choices = default_experiment(data, set, NullReporter(), target=None, input=None, base=None, task="translation", seed=1)  # fmt: skip
        objective: Any = experiment.objective
        return objective.vocabulary, [(choice.value, choice.reason) for choice in choices if choice.path == "objective.vocabulary"]

    held, said = chosen(100_000)
    assert held < 100_000
    assert said == [(held, f"100,000 were asked for, and the training rows give no more than {held:,}")]
    assert chosen(held - 10) == (held - 10, [(str(held - 10), "as set")])
