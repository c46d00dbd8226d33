"""Intervals: how far a number, or a difference on the same rows, could be from what was seen."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.metrics import METRICS

DRAWS = 2000


def interval(name: str, scores: Scores, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """A percentile bootstrap interval of one metric over the rows.

    Args:
        name: in `METRICS`.
        scores: of a model on held-out rows.
        level: share of the resamples inside.
        seed: of the resampling.
    """
    return _percentiles(np.array([METRICS[name].value(scores, rows) for rows in _resamples(len(scores.loss), seed)]), level)


def paired(name: str, ours: Scores, rival: Scores, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """How much better ours is than the rival on the same rows.

    Args:
        name: in `METRICS`.
        ours: per-row scores.
        rival: per-row scores, of the same rows in the same order.
        level: share of the resamples inside.
        seed: of the resampling.

    Returns:
        The improvement (positive is better, whichever way the metric goes), and its interval.

    Source: Efron & Tibshirani 1993, chapter 13; paired by drawing the same rows for both.
    """
    assert len(ours.loss) == len(rival.loss), "a paired comparison needs the same rows"
    metric = METRICS[name]
    sign = 1.0 if metric.higher else -1.0
    rows = np.arange(len(ours.loss))
    differences = np.array([metric.value(ours, drawn) - metric.value(rival, drawn) for drawn in _resamples(len(rows), seed)])
    value = sign * (metric.value(ours, rows) - metric.value(rival, rows))
    low, high = _percentiles(sign * differences, level)
    return value, low, high


def _resamples(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(0, count, (DRAWS, count))


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
