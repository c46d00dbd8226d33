"""The run folder, the table, the experiment and the randomness on which the rest stands."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DiskFailed, DiskFull, ExperimentError, RunError, nearest
from luthier.core.randomness import mix, mix_on, permutation
from luthier.core.run import AGAIN, Run, check_writable, name_disk_errors, write_file
from luthier.core.words import several
from luthier.experiment import Experiment
from tests.training.test_steps import experiment


def test_a_hash_is_the_same_on_every_machine_and_depends_on_every_part() -> None:
    assert int(mix(1, "order", 2)) == int(mix(1, "order", 2))
    assert len({int(mix(*parts)) for parts in ((1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3), (1, "a"), ("a", 1, 2))}) == 6
    assert mix(7, np.arange(3)).tolist() == [int(mix(7, number)) for number in range(3)]
    assert mix_on(mix(7, "a", np.arange(2))[[0, 1, 1]], np.arange(3)).tolist() == [
        int(mix(7, "a", *pair)) for pair in ((0, 0), (1, 1), (1, 2))
    ]


def test_permutations_are_uniform() -> None:
    first = np.array([permutation(8, seed, "test")[0] for seed in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 26  # chi-squared, 7 degrees of freedom, p < 0.001


def test_the_nearest_name_comes_first() -> None:
    assert nearest("lerning_rate", ["learning_rate", "x"]).startswith("did you mean 'learning_rate'?")
    assert nearest("zzz", ["a", "b"]) == "Known: a, b"


def test_an_experiment_survives_yaml_and_its_key_forgets_only_where_it_ran(tmp_path: Path) -> None:
    made = experiment("classification", "minilm-l6")
    (tmp_path / "experiment.yaml").write_text(made.yaml())
    again = Experiment.load(tmp_path / "experiment.yaml")
    assert again == made
    assert again.key == made.key
    assert made.model_copy(update={"environment": {"threads": 2}}).key == made.key
    assert made.replace("optimizer.lr", 0.5).key != made.key


def test_changing_the_kind_keeps_the_fields_that_fit() -> None:
    made = experiment("classification", "minilm-l6").replace("optimizer.lr", 0.5).replace("optimizer.kind", "sgd")
    assert (made.optimizer.lr, made.optimizer.kind) == (0.5, "sgd")  # type: ignore[attr-defined]
    assert made.set("schedule.kind=cosine", "schedule.warmup=0.3").schedule.warmup == 0.3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("optimizer.lrr=1", "did you mean 'lr'"),
        ("training=3", "training"),
        ("seed", "has no '='"),
        ("model.dropout=2", "less than 1"),
        ("seed=-1", "seed"),
        ("adaptation.kind=lra", "did you mean 'lora'"),
    ],
)
def test_a_wrong_change_is_answered_with_the_nearest_name_or_the_limit(assignment: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        experiment("classification", "minilm-l6").set(assignment)


def test_an_unknown_key_in_a_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    text = experiment("classification", "minilm-l6").yaml().replace("batch_size", "batchsize")
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ExperimentError, match="did you mean 'batch_size'"):
        Experiment.load(tmp_path / "experiment.yaml")


def test_a_torn_last_line_is_cut_off_and_a_damaged_middle_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append("metrics.jsonl", {"step": 1}, {"step": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    assert run.lines("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    run.append("metrics.jsonl", {"step": 3, "loss": float("nan")})
    assert run.lines("metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3, "loss": "NaN"}]
    run.truncate("metrics.jsonl", 2)
    assert len(run.lines("metrics.jsonl")) == 2
    (tmp_path / "events.jsonl").write_text('{"a": 1}\n{broken\n{"a": 2}\n')
    with pytest.raises(RunError, match=r"events\.jsonl, line 2"):
        run.lines("events.jsonl")


def test_twenty_runs_started_in_the_same_second_have_twenty_names() -> None:
    assert len({Run.fresh_name() for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "count, verb, said",
    [
        (1, "hold a NUL", "1 row holds a NUL"),
        (2, "hold a NUL", "2 rows hold a NUL"),
        (1, "are blank", "1 row is blank"),
        (1200, "are blank", "1,200 rows are blank"),
        (1, "have none", "1 row has none"),
    ],
)
def test_a_count_agrees_with_its_verb(count: int, verb: str, said: str) -> None:
    assert several(count, "row", verb) == said


def test_of_very_many_known_names_only_the_nearest_are_listed() -> None:
    said = nearest("card_lostt", ["card_lost", *(f"other_{number}" for number in range(99))])
    assert said.startswith("did you mean 'card_lost'? Known: card_lost")
    assert said.endswith(" and 87 more")
    assert len(said) < 300


@pytest.mark.parametrize("base, said", [(None, ""), ({"value": 1.5}, "base 1.5000, ")])
def test_a_finished_run_is_shown_with_the_baselines_that_it_has(tmp_path: Path, base: dict[str, float] | None, said: str) -> None:
    run = Run(tmp_path)
    assert repr(run) == f"Run({str(tmp_path)!r}, unfinished)"
    test = {"value": 1.0, "low": 0.5, "high": float("inf")}
    run.write_json("verdict.json", {"verdict": "improved", "metric": "rmse", "test": test, "base": base, "trivial": {"value": 2.0}})
    assert repr(run) == f"Run({str(tmp_path)!r}, improved: test rmse 1.0000 [0.5000, inf], {said}trivial 2.0000)"


def test_numbers_that_are_not_finite_are_numbers_again_in_a_verdict(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_json("verdict.json", {"name": "ridge", "test": {"value": float("inf"), "low": float("-inf"), "high": float("nan"), "n": 3}})
    verdict = run.verdict
    assert verdict is not None
    assert (verdict["name"], verdict["test"]["n"], verdict["test"]["value"], verdict["test"]["low"]) == (
        "ridge",
        3,
        float("inf"),
        float("-inf"),
    )
    assert math.isnan(verdict["test"]["high"])
    assert json.loads((tmp_path / "verdict.json").read_text())["test"]["value"] == "Infinity"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG])
def test_a_place_that_cannot_be_written_is_one_message(code: int) -> None:
    with (
        pytest.raises(DiskFailed, match=f"page.html cannot be written: {os.strerror(code)}[\\s\\S]*choose another place"),
        name_disk_errors("page.html"),
    ):
        raise OSError(code, os.strerror(code))
    with pytest.raises(ConnectionResetError), name_disk_errors("page.html"):  # a fetch that broke is no matter of the disk
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    for then, said in ((AGAIN, "type the command again"), ("then `luthier resume` the run", "luthier resume")):
        with pytest.raises(DiskFull, match=said), name_disk_errors("page.html", then):
            raise OSError(errno.ENOSPC, "full")


def test_whether_a_file_can_be_written_is_seen_before_the_work(tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("as it was")
    check_writable(old)
    check_writable(tmp_path / "new" / "folder" / "x.csv")
    assert old.read_text() == "as it was" and not list((tmp_path / "new" / "folder").iterdir())
    places = [old / "x.csv", tmp_path, tmp_path / ("a" * 300) / "x.csv", *([Path("/proc/x.csv")] if Path("/proc/self").exists() else [])]
    for place in places:
        with pytest.raises(DiskFailed, match="cannot be written"):
            check_writable(place)
        with pytest.raises(DiskFailed, match="cannot be written"):
            write_file(place, "")


def test_what_would_finish_a_run_depends_on_what_refused_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.event("started")
    assert run.how_to_finish() == f"finish it: `luthier resume {tmp_path}`"
    run.event("budget_too_short", budget=30.0, smallest="60s")
    assert run.how_to_finish().startswith("its budget of 30s was refused: the smallest that makes sense is 60s; ")
    run.event("no_go", reasons="the loss rose")
    assert run.how_to_finish().startswith("its small run refused it: the loss rose; ")
    run.event("forced")
    assert run.how_to_finish() == f"finish it: `luthier resume {tmp_path}`"
