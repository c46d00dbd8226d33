"""One model of `luthier transfer`: a start, fine-tuned on some of the training rows, and measured on the test rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import LuthierError, ModelError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.randomness import permutation
from luthier.core.run import Clock, Run
from luthier.core.types import Record, Scores, Step
from luthier.data.dataset import Dataset
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.models.spec import SCRATCH
from luthier.models.store import resolve

FEWEST_VALIDATION = 20
"""Validation rows, at least: they choose the checkpoint."""
VALIDATION_SHARE = 4
"""A model on few rows has a quarter as many to choose its checkpoint by: whoever labels 200 rows has no thousand more."""


@dataclass(frozen=True)
class Start:
    """What a model begins from.

    Args:
        name: as it was typed.
        base: a name for `--base`; of a network with new weights the base that it is built like.
        fingerprint: of its weights; empty where there are none.
        redrawn: whether the weights are drawn anew, in the network of the base.
    """

    name: str
    base: str
    fingerprint: str = ""
    redrawn: bool = False

    @property
    def about(self) -> str:
        """One line for a person."""
        return (
            f"the network of {self.base} with new weights" if self.redrawn else "nothing pretrained" if self.base == SCRATCH else self.base
        )


class OnlySteps(NullReporter):
    """Passes on the steps of a training alone."""

    def __init__(self, shown: Reporter) -> None:
        self.step = shown.step


def find_starts(names: Sequence[str], dataset: Dataset, reporter: Reporter) -> list[Start]:
    """The starts that were named; a start that knows nothing takes the network of the first base among them where the family makes none of its own.

    Args:
        names: bases, runs, `scratch`, or `scratch:BASE`.
        dataset: the rows.
        reporter: told before something is fetched.
    """
    family = family_of(dataset.spec.task)
    bases = [name for name in names if name.partition(":")[0] != SCRATCH]
    found = []
    for name in names:
        kind, _, like = name.partition(":")
        if kind != SCRATCH:
            found.append(Start(name, name, resolve(name, reporter.say).fingerprint))
        elif family.from_scratch and not like:
            found.append(Start(name, SCRATCH))
        else:
            like = like or next(iter(bases), family.base or "")
            if not like:
                raise ModelError(f"{family.name} has no base whose network could be made with new weights", "name one: --from scratch:BASE")
            found.append(Start(name, like, f"new weights, as {resolve(like, reporter.say).fingerprint}", redrawn=True))
    return found


def order_rows(records: Sequence[Record], dataset: Dataset, seed: int, part: str) -> list[Record]:
    """The rows so that the first of them, however many, have the classes in proportion: fewer rows are always among more.

    Args:
        records: of a part.
        dataset: says what is to be in proportion.
        seed: of the order within each class.
        part: its name, for the draw.
    """
    family = family_of(dataset.spec.task)
    members: dict[str, list[int]] = {}
    for place in permutation(len(records), seed, f"transfer {part}").tolist():
        members.setdefault(family.row_view(records[place], dataset.spec).stratum, []).append(place)
    placed = sorted(((rank + 0.5) / len(rows), kind, place) for kind, rows in members.items() for rank, place in enumerate(rows))
    return [records[place] for _, _, place in placed]


def with_rows(dataset: Dataset, rows: int, seed: int, most_test: int) -> Dataset:
    """The same data set with so many training rows, validation rows to match, and few enough test rows.

    Args:
        dataset: all rows.
        rows: for training; 0 for all.
        seed: of which.
        most_test: test rows, at most; they are the same for every seed.
    """
    kept = dict(dataset.records)
    kept["test"] = order_rows(kept["test"], dataset, 0, "test")[:most_test]
    if 0 < rows < len(kept["train"]):
        kept["train"] = order_rows(kept["train"], dataset, seed, "train")[:rows]
        kept["validation"] = order_rows(kept["validation"], dataset, seed, "validation")[: max(FEWEST_VALIDATION, rows // VALIDATION_SHARE)]
    return replace(dataset, records=kept)


def train_cell(
    folder: Path,
    dataset: Dataset,
    start: Start,
    seed: int,
    assignments: Sequence[str],
    reporter: Reporter,
    signals: Any,
    watch: Callable[[Step], None],
) -> dict[str, Any]:
    """Fine-tune a start by the family's defaults and measure it.

    Args:
        folder: for checkpoints; it is gone afterwards.
        dataset: with the rows of this model alone.
        start: where it begins.
        seed: of new weights, the order of rows and dropout.
        assignments: changes to every experiment, the metric among them.
        reporter: shows the steps.
        signals: polled; it may raise to stop.
        watch: called after each step; it may raise to stop.

    Returns:
        The metric, all metrics, the draws, steps, rows and seconds.

    Raises:
        LuthierError: why this start cannot serve these rows.
    """
    from luthier.evaluation.compare import bootstrap_metric
    from luthier.evaluation.metrics import measure
    from luthier.models.memory import release_memory
    from luthier.models.random_base import write_random_base
    from luthier.pilot.stages.options import choose_experiment

    clock = Clock()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        family = family_of(dataset.spec.task)
        base = str(write_random_base(family.read_base(resolve(start.base)), folder / "base", seed)) if start.redrawn else start.base
        experiment, _ = choose_experiment(dataset, base, assignments, seed, NullReporter())
        scores, metrics, facts = _fit_and_score(folder / "run", experiment, dataset, reporter, signals, watch, clock)
        return {
            "metric": metrics[0],
            "value": measure(scores, metrics[:1])[metrics[0]],
            "measured": measure(scores, metrics),
            "draws": np.round(bootstrap_metric(metrics[0], scores), 6).tolist(),
            "training_rows": len(dataset.records["train"]),
            "validation_rows": len(dataset.records["validation"]),
            "test_rows": len(dataset.records["test"]),
            **facts,
            "seconds": round(clock(), 2),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release_memory()


def _fit_and_score(
    folder: Path, experiment: Experiment, dataset: Dataset, reporter: Reporter, signals: Any, watch: Callable[[Step], None], clock: Clock
) -> tuple[Scores, tuple[str, ...], dict[str, Any]]:
    """Train in a folder; what the best checkpoint scores on the test rows, the metrics (the one that decides first), and how it was trained."""
    from luthier.evaluation.score import score
    from luthier.pilot.complete import open_context
    from luthier.training.train import Fit

    place = Run.create(folder)
    context, experiment = open_context(place, experiment, dataset, NullReporter(), clock, signals)
    work = context.work(experiment)
    best = Fit(place, work, OnlySteps(reporter), signals, (watch,)).finish()
    context.family.fit_after_training(work.model, work.objective, work.validation)
    scores = score(work.model, work.objective, context.examples("test"), poll=signals.poll, answers=work.objective.answered_at_verdict)
    facts = {"lr": experiment.model_dump()["optimizer"]["lr"], "passes": experiment.training.epochs, "step": best["step"]}
    return scores, work.objective.metrics, facts


def describe_starts(starts: Sequence[Start], unusable: Mapping[str, str]) -> list[dict[str, Any]]:
    """The starts as JSON can hold them, with why one cannot serve."""
    return [
        {"name": start.name, "about": start.about, "fingerprint": start.fingerprint, "why_not": unusable.get(start.name, "")}
        for start in starts
    ]


def check_start(start: Start, dataset: Dataset, assignments: Sequence[str]) -> LuthierError | None:
    """Why a start cannot serve these rows, before anything is trained; None where nothing speaks against it."""
    from luthier.pilot.stages.options import choose_experiment

    try:
        choose_experiment(dataset, start.base, assignments, 1, NullReporter())
    except LuthierError as problem:
        return problem
    return None
