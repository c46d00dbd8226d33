"""Cross-validation on the rows that are not sealed: how much the validation score of so few rows owes to chance."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import replace
from typing import Any

from luthier.core.errors import ExperimentError
from luthier.core.finding import Finding
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.types import Example
from luthier.core.words import plural, several
from luthier.data.split import folds
from luthier.experiment import Experiment
from luthier.pilot.stages.context import RunContext
from luthier.training.assemble import build
from luthier.training.train import Fit


def cross_validate(context: RunContext, experiment: Experiment) -> None:
    """Train on all folds but one and look at that one, in turn, where `data.folds` asks for it; the test rows stay sealed.

    Args:
        context: knows the rows; a fold that is done is not done again.
        experiment: as it will be trained.

    Raises:
        ExperimentError: the rows are split by time, or are too few for so many folds.
    """
    count, run = experiment.data.folds, context.run
    if count < 2 or run.events_named("crossed"):
        return
    rows = _unsealed_rows(context)
    if experiment.data.time:
        raise ExperimentError(
            "folds mix old and new rows, and data.time asks to keep them apart", "leave one of data.folds and data.time out"
        )
    if count > len(rows) // 10:
        raise ExperimentError(
            f"{several(len(rows), 'row', 'are')} too few for {count} folds", f"set data.folds to {max(2, len(rows) // 10)} or fewer"
        )
    together = [context.dataset.together[example.record.source, example.record.row] for example in rows]
    strata = [example.stratum or 0 for example in rows]
    parts = folds(together, strata, count, experiment.data.split_seed)
    for fold, held_out in enumerate(parts, 1):
        if any(event["fold"] == fold for event in run.events_named("fold")):
            continue
        context.reporter.stage("fold", f"{fold} of {count}: {plural(len(held_out), 'validation row')}")
        inside = set(held_out)
        train = [example for position, example in enumerate(rows) if position not in inside]
        best = _fit_fold(context, experiment, fold, train, [rows[position] for position in held_out])
        run.event("fold", fold=fold, rows=len(held_out), best=best)
    finding = _finding(context, [event["best"] for event in run.events_named("fold")])
    run.add_findings(finding)
    run.event("crossed")
    context.reporter.finding(finding)


def _unsealed_rows(context: RunContext) -> list[Example]:
    """Training and validation rows as one list, numbered anew: randomness is keyed by the number."""
    whole = [*context.examples("train"), *context.examples("validation")]
    return [replace(example, index=index) for index, example in enumerate(whole)]


def _fit_fold(context: RunContext, experiment: Experiment, fold: int, train: list[Example], validation: list[Example]) -> dict[str, Any]:
    """The best evaluation of a run on one fold's training rows; of its folder the curves are kept, the weights are not."""
    folder = context.run.folder / "folds" / f"fold-{fold}"
    shutil.rmtree(folder, ignore_errors=True)
    work = build(experiment, context.base, context.objective, train, validation, cache=context.cache)
    best = Fit(Run.create(folder), work, _Quiet(context), context.signals).finish()
    shutil.rmtree(folder / "checkpoints")
    return best


class _Quiet(NullReporter):
    """A reporter that shows the steps alone: five times the same evaluations would say little."""

    def __init__(self, context: RunContext) -> None:
        self.step = context.reporter.step  # type: ignore[method-assign]


def _finding(context: RunContext, best: list[dict[str, Any]]) -> Finding:
    """The scores of all folds as one sentence."""
    name = context.objective.metrics[0]
    values = [evaluation[name] for evaluation in best]
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return Finding(
        check="folds",
        claim=f"over {len(values)} folds the validation {name} is {mean:.3f} on average, between {min(values):.3f} and {max(values):.3f}",
        evidence={"metric": name, "values": values, "mean": mean, "standard_deviation": spread},
        remedy=f"scores on one split's validation rows that differ by less than about {2 * spread:.3f} say nothing",
    )
