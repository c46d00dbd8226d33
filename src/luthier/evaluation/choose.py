"""Which of two classifiers, or their average, the validation rows favour."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.compare import paired
from luthier.evaluation.metrics import measure

METRIC_LEAD = 0.5
"""Standard errors by which one alone must have the better metric than the average, to be preferred to it."""
LOSS_LEAD = 1.0
"""Standard errors by which one alone must have the lesser loss than the average, to be preferred to it."""
INSIDE = 2 * 1.96
"""Standard errors between the ends of a 95 % interval."""


def choose(candidates: Mapping[str, Scores], metric: str, average: str = "average") -> str:
    """The average, unless one alone is better on the same rows: by half a standard error of the metric, or by one of the loss.

    Validation rows are few, and the mean of two classifiers is rarely worse than the better one; where it is, the rows say so. Of two that are both
    better than the average the one with the lesser loss is taken; the first where they say the same.

    Args:
        candidates: their scores on the same validation rows, at their temperatures; the simpler ones first.
        metric: in `METRICS`.
        average: the name of the one that is the average of the others.
    """
    alone = {name: scores for name, scores in candidates.items() if name != average}
    both = candidates[average]
    better = [name for name, scores in alone.items() if beats(scores, both, metric)]
    if not better:
        return average
    return min(better, key=lambda name: measure(alone[name], ("loss",))["loss"])


def beats(one: Scores, both: Scores, metric: str) -> bool:
    """Whether a classifier alone is better than the average by enough, or says the very same.

    Args:
        one: alone.
        both: the average.
        metric: in `METRICS`.
    """
    lead, error = lead_of(one, both, metric)
    gain, spread = lead_of(one, both, "loss")
    return lead > METRIC_LEAD * error or gain > LOSS_LEAD * spread or (lead == 0 and gain == 0)


def lead_of(one: Scores, other: Scores, metric: str) -> tuple[float, float]:
    """How much better one is than the other on the same rows, and the standard error of that.

    Args:
        one: on some rows.
        other: on the same rows in the same order.
        metric: in `METRICS`.
    """
    if metric == "loss":
        return _mean(other.loss - one.loss)
    if metric == "accuracy":
        return _mean(_right(one) - _right(other))
    value, low, high = paired(metric, one, other)
    return value, (high - low) / INSIDE


def _right(scores: Scores) -> np.ndarray:
    assert scores.probabilities is not None
    return (scores.probabilities.argmax(1) == scores.target).astype(float)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
