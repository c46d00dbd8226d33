"""What transfer is worth: the same rows from several starts, over more and more labelled rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ExperimentError, RunError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import Clock, Run
from luthier.data.dataset import Dataset
from luthier.data.sources.frames import Frame
from luthier.experiment import Changes, as_assignments
from luthier.families.recognise import load_dataset
from luthier.models.spec import SCRATCH
from luthier.pilot.stages.given_rows import accepts_frames
from luthier.pilot.stages.metric import with_metric
from luthier.pilot.stages.options import choose_experiment, data_spec, parse_seconds
from luthier.pilot.transfer_cells import Start, check_start, describe_starts, find_starts
from luthier.pilot.transfer_comparison import Comparison, Plan

ROWS = "50,200,1000,all"
SEEDS = 3
MOST_TEST = 1000
"""Test rows, at most: a model is asked about all of them for every start, number of rows and seed."""
FEWEST = 8
"""Rows that a model is trained on, and that it is asked about."""


@dataclass(frozen=True)
class Transfer:
    """What was found.

    Args:
        folder: with transfer.json, report.html, and the finished models' figures in cells/.
        found: the content of transfer.json.
    """

    folder: Path
    found: dict[str, Any]

    def __repr__(self) -> str:
        return f"Transfer({str(self.folder)!r}: {' '.join(self.found['sentences'])})"


@accepts_frames
def transfer(
    data: str | Path | Frame,
    starts: str | Sequence[str],
    *,
    rows: str | Sequence[int | str] = ROWS,
    seeds: int = SEEDS,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    task: str | None = None,
    metric: str | None = None,
    validation: str | Path | Frame | None = None,
    test: str | Path | Frame | None = None,
    budget: str | float | None = None,
    most_test: int = MOST_TEST,
    out: str | Path | None = None,
    set: Changes = (),
    reporter: Reporter | None = None,
) -> Transfer:
    """Fine-tune several starts on the same few and many labelled rows, and say what each start is worth.

    Args:
        data: a file of rows, a folder, or rows in memory.
        starts: names of bases, folders, runs or bundles, and `scratch` for nothing pretrained (`scratch:BASE` for the network of a base with new weights).
        rows: numbers of training rows, and "all"; fewer are always among more, with the classes in proportion.
        seeds: models for each start and number of rows: each has other training rows, new weights and another order.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        task: what is learned; inferred when not given.
        metric: that is compared; what suits the rows when not given.
        validation: validation rows, where the split is given.
        test: test rows, where the split is given.
        budget: the most that all of it may take: "90s", "5m", "2h"; what no longer fits is left out, and said.
        most_test: test rows that every model is asked about, at most.
        out: the folder; `transfers/<time>` when not given. Models that are finished there are kept.
        set: changes to every experiment.
        reporter: shows progress; None shows nothing.

    Raises:
        LuthierError: what is wrong and what to do about it.
    """
    clock, reporter = Clock(), reporter or NullReporter()
    names, sizes, seconds = _names(starts), _sizes(rows), parse_seconds(budget)
    _check_counts(seeds, most_test)
    reporter.stage("data", str(data))
    changes = with_metric(as_assignments(set), metric)
    spec = data_spec(data, target=target, input=input, task=task, validation=validation, test=test, set=changes, say=reporter.say)  # type: ignore[arg-type]
    dataset = load_dataset(spec)
    named, unusable = _check_starts(names, dataset, changes, reporter)
    settled = _settle_metric(dataset, next(start for start in named if start.name not in unusable), changes)
    plan = Plan(named, _distinct(sizes, len(dataset.records["train"])), seeds, most_test, settled)
    folder = Path(out) if out else Path("transfers") / Run.fresh_name()
    place = _open_folder(folder, dataset, plan)
    with place.lock():
        comparison = Comparison(place, dataset, plan, unusable, seconds, clock, reporter)
        comparison.train()
        return Transfer(folder, _conclude(place, dataset, comparison))


def _check_counts(seeds: int, most_test: int) -> None:
    """Refuse numbers of models and of test rows that say nothing.

    Raises:
        ExperimentError: one is out of range.
    """
    if not 1 <= seeds <= 100:
        raise ExperimentError(f"{seeds} seeds", "give 1 to 100; 3 show how much is chance")
    if most_test < FEWEST:
        raise ExperimentError(
            f"{most_test} test rows at most: on so few no two starts can be told apart",
            f"give {FEWEST} or more; {MOST_TEST:,} is the default",
        )


def _check_starts(names: Sequence[str], dataset: Dataset, changes: list[str], reporter: Reporter) -> tuple[list[Start], dict[str, str]]:
    """The starts that were named, and of those that cannot serve the rows why.

    Raises:
        LuthierError: none of them can; where all fail alike, a change or the metric is wrong, not the starts.
    """
    found = find_starts(names, dataset, reporter)
    problems = {start.name: problem for start in found if (problem := check_start(start, dataset, changes))}
    if len(problems) == len(found):
        first = next(iter(problems.values()))
        if len({problem.message for problem in problems.values()}) == 1:
            raise first
        raise ExperimentError(f"none of {', '.join(names)} can serve these rows: {first.message}", first.remedy)
    for name, problem in problems.items():
        reporter.say(f"{name} is left out: {problem.message}")
    return found, {name: problem.message for name, problem in problems.items()}


def _names(starts: str | Sequence[str]) -> list[str]:
    """The starts as typed.

    Raises:
        ExperimentError: there is none, or one is named twice.
    """
    names = [name.strip() for name in (starts.split(",") if isinstance(starts, str) else starts) if name.strip()]
    if not names:
        raise ExperimentError("no start was named", f"give some with commas: --from {SCRATCH},minilm-l6,runs/mine")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ExperimentError(f"{twice} is named twice among the starts", "name each once")
    return names


def _sizes(rows: str | Sequence[int | str]) -> list[int]:
    """Numbers of training rows; 0 for all.

    Raises:
        ExperimentError: one is no number, or too small, or there is none.
    """
    words = [str(word).strip().replace("_", "") for word in (rows.split(",") if isinstance(rows, str) else rows)]
    remedy = f'give numbers from {FEWEST}, or "all", with commas: {ROWS}'
    if not words:
        raise ExperimentError("no number of training rows was given", remedy)
    wrong = next((word for word in words if word != "all" and (not word.isdecimal() or int(word) < FEWEST)), None)
    if wrong is not None:
        raise ExperimentError(f"--rows {wrong!r} is no number of training rows", remedy)
    return [0 if word == "all" else int(word) for word in words]


def _distinct(sizes: Sequence[int], most: int) -> list[int]:
    """The numbers of rows that there are, each once, the fewest first; as many as there are, or more, are all (0)."""
    return sorted({size if size < most else 0 for size in sizes}, key=lambda size: size or most)


def _settle_metric(dataset: Dataset, start: Start, changes: list[str]) -> list[str]:
    """The changes with the metric that suits all rows: fewer of them must not be measured otherwise."""
    experiment, _ = choose_experiment(dataset, start.base, changes, 1, NullReporter())
    return [
        *(change for change in changes if change.partition("=")[0].strip() != "training.metric"),
        f"training.metric={experiment.training.metric}",
    ]


def _open_folder(folder: Path, dataset: Dataset, plan: Plan) -> Run:
    """The folder, new or of the same rows and changes.

    Raises:
        RunError: it holds something else.
    """
    place = Run(folder)
    now = {"rows": dict(dataset.spec.fingerprint), "task": dataset.spec.task, "input": list(dataset.spec.input), "target": dataset.spec.target,
           "split_seed": dataset.spec.split_seed, "set": sorted(plan.changes), "most_test": plan.most_test}  # fmt: skip
    then = place.json("plan.json")
    if then is None:
        place = Run.create(folder)
        place.write_json("plan.json", now)
    elif then != json.loads(json.dumps(now)):
        other = next(name for name in now if then.get(name) != json.loads(json.dumps(now[name])))
        raise RunError(
            f"{folder} compares starts on something else: {other} was {then.get(other)}, is {now[other]}", "choose another --out"
        )
    (folder / "cells").mkdir(exist_ok=True)
    return place


def _conclude(place: Run, dataset: Dataset, comparison: Comparison) -> dict[str, Any]:
    """What the finished models say; write it down."""
    from luthier.delivery.transfer import write_transfer
    from luthier.pilot.stages.transfer_table import compare_starts

    plan = comparison.plan
    if not comparison.finished:
        for name, why in comparison.unusable.items():
            raise ExperimentError(f"no model was finished: {name}: {why}", "mend what it says, or leave this start out")
        raise ExperimentError("the budget was spent before one model was finished", "give more time, or fewer --rows")
    result = {"data": dataset.spec.path, "task": dataset.spec.task, "starts": describe_starts(plan.starts, comparison.unusable), "seeds": plan.seeds,
              **compare_starts(comparison.finished, [start.name for start in plan.starts]), "left_out": comparison.list_left_out()}  # fmt: skip
    place.write_json("transfer.json", result)
    write_transfer(place, result)
    return result
