"""What transfer is worth: the same rows from several starts, over more and more labelled rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ExperimentError, LuthierError, RunError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import Clock, Run
from luthier.core.types import Step
from luthier.core.words import duration, plural
from luthier.data.dataset import Dataset
from luthier.data.sources.frames import Frame
from luthier.experiment import Changes, as_assignments
from luthier.families.recognise import load_dataset
from luthier.models.spec import SCRATCH
from luthier.pilot.stages.given_rows import accepts_frames
from luthier.pilot.stages.metric import with_metric
from luthier.pilot.stages.options import choose_experiment, data_spec, parse_seconds
from luthier.pilot.transfer_cells import Start, check_start, describe_starts, find_starts, train_cell, with_rows

ROWS = "50,200,1000,all"
SEEDS = 3
MOST_TEST = 1000
"""Test rows, at most: a model is asked about all of them for every start, number of rows and seed."""
FEWEST = 8
"""Training rows that a model is trained on."""


class BudgetSpent(Exception):
    """The time is over: the model that is being trained is given up."""


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


@dataclass(frozen=True)
class Plan:
    """Which models there are to train.

    Args:
        starts: that can serve the rows.
        sizes: training rows; 0 for all.
        seeds: from 1.
    """

    starts: list[Start]
    sizes: list[int]
    seeds: int

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Seed and rows: all starts on the same rows, the fewest rows first."""
        return [(seed, rows) for seed in range(1, self.seeds + 1) for rows in sorted(self.sizes, key=lambda rows: rows or 1 << 62)]


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
    clock, seconds, reporter = Clock(), parse_seconds(budget), reporter or NullReporter()
    names = _names(starts)
    if not 1 <= seeds <= 100:
        raise ExperimentError(f"{seeds} seeds", "give 1 to 100; 3 show how much is chance")
    reporter.stage("data", str(data))
    changes = with_metric(as_assignments(set), metric)
    spec = data_spec(data, target=target, input=input, task=task, validation=validation, test=test, set=changes, say=reporter.say)  # type: ignore[arg-type]
    dataset = load_dataset(spec)
    found = find_starts(names, dataset, reporter)
    unfit = {start.name: why for start in found if (why := check_start(start, dataset, changes))}
    for name, why in unfit.items():
        reporter.say(f"{name} is left out: {why}")
    fit = [start for start in found if start.name not in unfit]
    if not fit:
        raise ExperimentError(
            f"none of {', '.join(names)} can serve these rows: {next(iter(unfit.values()))}", "`luthier models list` shows the bases"
        )
    settled = _settle_metric(dataset, fit[0], changes)
    plan = Plan(fit, _sizes(rows, len(dataset.records["train"])), seeds)
    folder = Path(out) if out else Path("transfers") / Run.fresh_name()
    place = _open_folder(folder, dataset, settled, most_test)
    with place.owned():
        try:
            left_out = _train_all(place, plan, dataset, settled, most_test, unfit, seconds, clock, reporter)
        except KeyboardInterrupt:
            reporter.say(f"finished models are kept: type the same with --out {folder} to go on")
            raise
        shutil.rmtree(folder / "work", ignore_errors=True)
        result = _conclude(place, plan, dataset, found, unfit, left_out)
    return Transfer(folder, result)


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


def _sizes(rows: str | Sequence[int | str], most: int) -> list[int]:
    """Numbers of training rows; 0 for all.

    Raises:
        ExperimentError: one is no number, or too small.
    """
    sizes: list[int] = []
    for word in rows.split(",") if isinstance(rows, str) else rows:
        text = str(word).strip().replace("_", "")
        if text == "all":
            sizes.append(0)
            continue
        if not text.isdecimal() or int(text) < FEWEST:
            raise ExperimentError(
                f"--rows {text!r} is no number of training rows", f'give numbers from {FEWEST}, or "all", with commas: {ROWS}'
            )
        sizes.append(int(text) if int(text) < most else 0)
    return sorted({*sizes}, key=lambda size: size or 1 << 62)


def _settle_metric(dataset: Dataset, start: Start, changes: list[str]) -> list[str]:
    """The changes with the metric that suits all rows: fewer of them must not be measured otherwise."""
    experiment, _ = choose_experiment(dataset, start.base, changes, 1, NullReporter())
    return [
        *(change for change in changes if change.partition("=")[0].strip() != "training.metric"),
        f"training.metric={experiment.training.metric}",
    ]


def _open_folder(folder: Path, dataset: Dataset, changes: list[str], most_test: int) -> Run:
    """The folder, new or of the same rows and changes.

    Raises:
        RunError: it holds something else.
    """
    place = Run(folder)
    now = {"rows": dict(dataset.spec.fingerprint), "task": dataset.spec.task, "input": list(dataset.spec.input), "target": dataset.spec.target,
           "split_seed": dataset.spec.split_seed, "set": sorted(changes), "most_test": most_test}  # fmt: skip
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


def _cell_name(start: Start, rows: int, seed: int) -> str:
    from hashlib import sha256

    return f"{sha256(f'{start.name} {start.base} {start.fingerprint}'.encode()).hexdigest()[:10]}-{rows or 'all'}-{seed}"


def _kept(place: Run, start: Start, rows: int, seed: int) -> dict[str, Any] | None:
    return place.json(f"cells/{_cell_name(start, rows, seed)}.json")


def _train_all(
    place: Run,
    plan: Plan,
    dataset: Dataset,
    changes: list[str],
    most_test: int,
    unfit: dict[str, str],
    seconds: float | None,
    clock: Clock,
    reporter: Reporter,
) -> list[str]:
    """Train what is not there yet, as far as the time suffices; what was left out, for a person."""
    from luthier.training.devices import configure_torch, restore_threads
    from luthier.training.watchers import Signals

    configure_torch()
    left_out: list[str] = []

    def watch(step: Step) -> None:
        if seconds is not None and clock() > seconds:
            raise BudgetSpent

    with Signals(reporter.say) as signals, restore_threads():
        for seed, rows in plan.groups:
            missing = [start for start in plan.starts if start.name not in unfit and _kept(place, start, rows, seed) is None]
            awaited = [_expected(place, plan, start, rows, len(dataset.records["train"])) for start in missing]
            group = f"{f'{rows:,}' if rows else 'all'} rows, seed {seed}"
            if missing and seconds is not None and clock() + sum(each or 0.0 for each in awaited) > seconds:
                left_out.append(group)
                continue
            part = with_rows(dataset, rows, seed, most_test)
            for start in missing:
                signals.poll()
                reporter.stage(
                    "train", f"{start.name} on {group}{_left(place, plan, unfit, len(dataset.records['train']), seconds, clock)}"
                )
                name = _cell_name(start, rows, seed)
                try:
                    done = train_cell(place.folder / "work" / name, part, start, seed, changes, reporter, signals, watch)
                except BudgetSpent:
                    left_out.append(f"{start.name} on {group}")
                    break
                except LuthierError as problem:
                    unfit[start.name] = problem.message  # what is finished of it stays in the table
                    reporter.say(f"no more models from {start.name}: {problem.message}")
                    continue
                place.write_json(f"cells/{name}.json", {"start": start.name, "rows": rows, "seed": seed, **done})
                reporter.say(f"  {done['metric']} {done['value']:.4f} in {duration(done['seconds'])}")
    return left_out


def _expected(place: Run, plan: Plan, start: Start, rows: int, whole: int) -> float | None:
    """About how many seconds a model takes, from those of the same start that are finished; None where nothing is known yet."""
    known = [(found["training_rows"], found) for seed, size in plan.groups if (found := _kept(place, start, size, seed))]
    if not known:
        return None
    wanted = rows or whole
    nearest = min(abs(count - wanted) for count, _ in known)
    near = [(count, found["seconds"]) for count, found in known if abs(count - wanted) == nearest]
    return sum(seconds * max(1.0, wanted / count) for count, seconds in near) / len(near)  # more rows have fewer passes: no more than this


def _left(place: Run, plan: Plan, unfit: dict[str, str], whole: int, seconds: float | None, clock: Clock) -> str:
    """How many models are left, and about how long they take."""
    waiting = [
        (start, rows)
        for seed, rows in plan.groups
        for start in plan.starts
        if start.name not in unfit and _kept(place, start, rows, seed) is None
    ]
    expected = [_expected(place, plan, start, rows, whole) for start, rows in waiting]
    known = [each for each in expected if each is not None]
    if not known:
        return f"; {plural(len(waiting), 'model')} left"
    whole_time = sum(known) * len(expected) / len(known)
    return f"; {plural(len(waiting), 'model')} and about {duration(whole_time if seconds is None else min(whole_time, seconds - clock()))} left"


def _conclude(place: Run, plan: Plan, dataset: Dataset, starts: list[Start], unfit: dict[str, str], left_out: list[str]) -> dict[str, Any]:
    """Compare what is finished, and write it down."""
    from luthier.delivery.transfer import write_transfer
    from luthier.pilot.stages.transfer_table import compare_starts

    cells = {
        (start.name, rows, seed): found for start in plan.starts for seed, rows in plan.groups if (found := _kept(place, start, rows, seed))
    }
    if not cells:
        for name, why in unfit.items():
            raise ExperimentError(f"no model was finished: {name}: {why}", "mend what it says, or leave this start out")
        raise ExperimentError("the budget was spent before one model was finished", "give more time, or fewer --rows")
    result = {"data": dataset.spec.path, "task": dataset.spec.task, "starts": describe_starts(starts, unfit), "seeds": plan.seeds,
              **compare_starts(cells, [start.name for start in plan.starts]), "left_out": left_out}  # fmt: skip
    place.write_json("transfer.json", result)
    write_transfer(place, result)
    return result
