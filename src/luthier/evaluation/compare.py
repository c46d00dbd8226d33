"""Intervals: how far a number, or a difference on the same rows, could be from what was seen."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np

from luthier.core.errors import ExperimentError
from luthier.core.types import Scores
from luthier.evaluation.metrics import Metric, metric_of, rows_of
from luthier.evaluation.resamples import CHUNK, DRAWS, counts_of_rows

CALLS = 200
"""Resamples of a metric that is measured on each by itself: a function of the user's."""
_KEPT: dict[tuple[str, int, int, int], tuple[weakref.ref[Scores], np.ndarray]] = {}


def interval(name: str, scores: Scores, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """A percentile bootstrap interval of one metric over the rows.

    Args:
        name: of the metric.
        scores: of a model on held-out rows.
        level: share of the resamples inside.
        seed: of the resampling.
    """
    return _percentiles(bootstrap_metric(name, scores, seed), level)


def paired_interval(name: str, ours: Scores, rival: Scores, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """How much better ours is than the rival on the same rows.

    Args:
        name: of the metric.
        ours: per-row scores.
        rival: per-row scores, of the same rows in the same order.
        level: share of the resamples inside.
        seed: of the resampling.

    Returns:
        The improvement (positive is better, whichever way the metric goes), and its interval.

    Source: Efron & Tibshirani 1993, chapter 13; paired by drawing the same rows for both.
    """
    assert len(ours.loss) == len(rival.loss), "a paired comparison needs the same rows"
    metric = metric_of(name)
    sign = 1.0 if metric.higher else -1.0
    both = np.intersect1d(rows_of(name, ours), rows_of(name, rival))
    if len(both) < len(ours.loss):
        ours, rival = ours.part(both), rival.part(both)
    rows = np.arange(len(ours.loss))
    value = sign * (metric.value(ours, rows) - metric.value(rival, rows))
    low, high = _percentiles(sign * (bootstrap_metric(name, ours, seed) - bootstrap_metric(name, rival, seed)), level)
    return value, low, high


def bootstrap_metric(name: str, scores: Scores, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """A metric on resamples of the rows, the same resamples for every model with as many rows; kept as long as the scores are.

    Args:
        name: of the metric.
        scores: of a model on held-out rows.
        seed: of the resampling.
        draws: how many resamples; fewer for a function of the user's.

    Returns:
        # (draws,); NaN where a function of the user's could not say anything about a resample.
    """
    key = name, id(scores), seed, draws
    cached = _KEPT.get(key)
    if cached is not None and cached[0]() is scores:
        return cached[1]
    rows = rows_of(name, scores)
    part = scores if len(rows) == len(scores.loss) else scores.part(rows)
    values = _measure(metric_of(name), part, seed, draws)
    for old in [old for old, (reference, _) in _KEPT.items() if reference() is None]:
        del _KEPT[old]
    _KEPT[key] = weakref.ref(scores), values
    return values


def _measure(metric: Metric, scores: Scores, seed: int, draws: int) -> np.ndarray:
    """The metric on each resample."""
    count = len(scores.loss)
    if metric.over is not None:
        over = metric.over(scores)
        return np.concatenate([over(counts) for counts in _counts(scores, seed, draws)])
    rows, values = np.arange(count), []
    for counts in _counts(scores, seed, min(draws, CALLS)):
        for row_counts in counts:
            try:
                values.append(metric.value(scores, np.repeat(rows, row_counts.astype(int))))
            except ExperimentError:  # it can say nothing of rows of one class alone
                values.append(np.nan)
    return np.array(values)


def _counts(scores: Scores, seed: int, draws: int) -> Iterator[np.ndarray]:
    """How often each example is in each resample; those of a group (the blocks of a document) are drawn together, # (draws in a chunk, examples)

    Source: Davison & Hinkley 1997, section 3.8 (the cluster bootstrap).
    """
    if scores.groups is None:
        yield from counts_of_rows(len(scores.loss), seed, draws)
        return
    kinds, group = np.unique(scores.groups, return_inverse=True)
    step = max(1, CHUNK // len(group))
    for counts in counts_of_rows(len(kinds), seed, draws):
        yield from (counts[start : start + step, group] for start in range(0, len(counts), step))


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
