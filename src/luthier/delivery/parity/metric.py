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


def compare_metric(ours: Scores, theirs: Scores, name: str) -> Measured:
    """A metric of the trainer and of the export on the same rows; the export's has to lie in the trainer's interval, which fewer than `FEWEST` rows do not have.

    Args:
        ours: the trainer's scores.
        theirs: the export's.
        name: of the metric.
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
    measured = {"name": name, "trainer": value, "low": low, "high": high, "export": other, "difference": {"value": apart[0], "low": apart[1], "high": apart[2]}}  # fmt: skip
    if state == "unseen":
        detail = f"{name} {value:.4g} in the trainer, {other:.4g} in the export: {several(drawn, 'row' if ours.groups is None else 'document', 'are')} too few for an interval, which takes {FEWEST} or more"
        return StageResult(METRIC, state, len(ours.loss), detail=detail), measured
    detail = f"{name} {value:.4g} [{low:.4g}, {high:.4g}] in the trainer, {other:.4g} in the export"
    return StageResult(METRIC, state, len(ours.loss), abs(value - other), None, f"of {name}", detail), measured
