"""The metric that decided a verdict, of the trainer and of the export on the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Scores
from luthier.delivery.exports.exporter import METRIC
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.trainer import Trainer
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import METRICS, measure

Measured = tuple[StageResult, dict[str, Any]]
"""The stage, and the metric's name and values as `ParityRecord.metric` has them."""


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
    """A metric of the trainer and of the export on the same rows; the export's has to lie in the trainer's interval.

    Args:
        ours: the trainer's scores.
        theirs: the export's.
        name: of the metric.
    """
    value, other = measure(ours, (name,))[name], measure(theirs, (name,))[name]
    low, high = interval(name, ours)
    apart = paired_interval(name, theirs, ours)
    leeway = 1e-6 + 1e-4 * abs(value)
    inside = min(low, value) - leeway <= other <= max(high, value) + leeway
    measured = {"name": name, "trainer": value, "low": low, "high": high, "export": other, "difference": {"value": apart[0], "low": apart[1], "high": apart[2]}}  # fmt: skip
    detail = f"{name} {value:.4g} [{low:.4g}, {high:.4g}] in the trainer, {other:.4g} in the export"
    return StageResult(METRIC, "same" if inside else "parts", len(ours.loss), abs(value - other), None, f"of {name}", detail), measured
