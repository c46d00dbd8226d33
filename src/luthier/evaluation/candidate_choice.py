"""Choose what ships on the validation rows: one of two classifiers, or their average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.compare import paired_interval

FAR = 1.5
"""Standard errors of the paired difference of two classifiers from which on the better one may ship alone."""
HELPED = 0.5
"""Standard errors by which the average's log loss is lower from which on the other one helps all the same."""
INSIDE = 2 * 1.96
"""Standard errors between the ends of a 95 % interval."""


def choose_candidate(candidates: Mapping[str, Scores], metric: str, average: str = "average") -> str:
    """The average, unless one of the two is far better than the other and is not helped by it.

    Few validation rows cannot tell two good classifiers apart, and their average is seldom far behind the better one; one that is far behind spoils it.

    Args:
        candidates: their scores on the same validation rows, at their temperatures.
        metric: in `METRICS`.
        average: the name of the one that is the average of the others.
    """
    first, second = (name for name in candidates if name != average)
    lead, error = lead_of(candidates[first], candidates[second], metric)
    alone = first if lead > 0 else second
    gain, spread = lead_of(candidates[average], candidates[alone], "loss")
    if abs(lead) > FAR * error and gain <= HELPED * spread:
        return alone
    losses = {name: float(scores.loss.mean()) for name, scores in candidates.items()}
    return average if losses[average] < max(losses[first], losses[second]) else first


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
        return _mean(_is_right(one) - _is_right(other))
    value, low, high = paired_interval(metric, one, other)
    return value, (high - low) / INSIDE


def _is_right(scores: Scores) -> np.ndarray:
    assert scores.probabilities is not None
    return (scores.probabilities.argmax(1) == scores.target).astype(float)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
