"""The metric that decided a verdict, of the trainer and of the export on the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Scores
from luthier.core.words import several
from luthier.delivery.exports.exporter import METRIC
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.trainer import Trainer
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import METRICS, measure, rows_of

Measured = tuple[StageResult, dict[str, Any]]
"""The stage, and the metric's name and values as `ParityRecord.metric` has them."""
FEWEST = 10
"""Rows that an interval is drawn from: a bootstrap of fewer is too narrow (of one row it has no width), and rounding alone leaves it."""


def choose_metric(decided: str | None, trainer: Trainer, scores: Scores) -> str:
    """The metric that decided, where these scores can say it, else the first of the family's that they can.

    Args:
        decided: that decided the verdict.
        trainer: whose family it is.
        scores: of the trainer.
    """
    for name in (decided, *trainer.objective.metrics, *trainer.family.metrics):
        if name is None or name not in METRICS or METRICS[name].answers:
            continue
        try:
            if np.isfinite(measure(scores, (name,))[name]):
                return name
        except (AssertionError, KeyError, ValueError, DataError):
            continue
    return "loss"


def compare_metric(ours: Scores, theirs: Scores, name: str, rounded: Scores | None = None) -> Measured:
    """A metric of the trainer and of the export on the same rows; the export's has to lie in the trainer's interval, which fewer than `FEWEST` rows do not have.

    Args:
        ours: the trainer's scores, as it was trained.
        theirs: the export's, as it is used.
        name: of the metric.
        rounded: the trainer's with its weights rounded as the export's are; None where that changes nothing, or cannot be done.
    """
    value, other = measure(ours, (name,))[name], measure(theirs, (name,))[name]
    low, high = interval(name, ours)
    apart = paired_interval(name, theirs, ours)
    leeway = 1e-6 + 1e-4 * abs(value)
    kept = rows_of(name, ours)
    drawn = len(kept) if ours.groups is None else len(np.unique(ours.groups[kept]))  # parts of one document are drawn together
    inside = min(low, value) - leeway <= other <= max(high, value) + leeway
    if abs(value - other) <= leeway:
        state = "same"
    elif drawn < FEWEST and np.isfinite(other):
        state = "unseen"
    else:
        state = "same" if inside else "parts"
    measured = {"name": name, "trainer": value, "low": low, "high": high, "export": other, "difference": {"value": apart[0], "low": apart[1], "high": apart[2]}, "drawn": drawn}  # fmt: skip
    if rounded is not None:
        measured["rounded"] = measure(rounded, (name,))[name]
    if state == "unseen":
        detail = f"{name} {value:.4g} in the trainer, {other:.4g} in the export: {several(drawn, 'row' if ours.groups is None else 'document', 'are')} too few for an interval, which takes {FEWEST} or more"
        return StageResult(METRIC, state, len(ours.loss), detail=detail), measured
    detail = f"{name} {value:.4g} [{low:.4g}, {high:.4g}] in the trainer, {other:.4g} in the export"
    return StageResult(METRIC, state, len(ours.loss), abs(value - other), None, f"of {name}", detail, measured), measured


def describe_rounding(measured: dict[str, Any], precision: str) -> str:
    """What rounding does to the metric on these rows, as a sentence.

    Args:
        measured: as `compare_metric` gives it.
        precision: of the export.
    """
    name, value, other = measured["name"], measured["trainer"], measured["export"]
    if value == other:
        return f"in {precision}, {name} stays {value:.4g} on these rows"
    better, low, high = (measured["difference"][key] for key in ("value", "low", "high"))
    apart = f"{'better' if better > 0 else 'worse'} by {abs(better):.2g}"
    if measured["drawn"] < FEWEST:
        apart += ", on too few rows to tell it from chance"
    else:
        least, most = (low, high) if better > 0 else (-high, -low)
        apart += f" [{least:.2g}, {most:.2g}], {'which chance explains too' if low <= 0 <= high else 'more than chance explains'}"
    alone = measured.get("rounded")
    alone = f" ({alone:.4g} with the weights alone rounded)" if alone is not None and f"{alone:.4g}" != f"{other:.4g}" else ""
    return f"in {precision}, {name} goes from {value:.4g} to {other:.4g}{alone}: {apart}"
