"""What a start is worth: differences on the same test rows and seeds with their intervals, and how many more rows another start would need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """One trained model on the test rows.

    Args:
        value: of the metric.
        draws: of the metric on resamples of the test rows, the same resamples for every model, # (draws,)
    """

    value: float
    draws: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over test rows and seeds."""

    value: float
    low: float
    high: float


def mean_over_seeds(models: Mapping[int, Measured]) -> Estimate:
    """The mean of a metric over the seeds; test rows and seeds are drawn again for its interval.

    Args:
        models: seed → the model that was trained with it.
    """
    return _estimate([models[seed].value for seed in sorted(models)], np.stack([models[seed].draws for seed in sorted(models)]))


def paired_gain(ours: Mapping[int, Measured], rival: Mapping[int, Measured], higher: bool) -> Estimate | None:
    """How much better one start is than another on the same test rows, training rows and seeds (positive is better); None without a common seed.

    Args:
        ours: seed → model.
        rival: seed → model, of the other start.
        higher: whether more of the metric is better.
    """
    seeds = sorted({*ours} & {*rival})
    if not seeds:
        return None
    sign = 1.0 if higher else -1.0
    values = [sign * (ours[seed].value - rival[seed].value) for seed in seeds]
    return _estimate(values, np.stack([sign * (ours[seed].draws - rival[seed].draws) for seed in seeds]))


def _estimate(values: Sequence[float], draws: np.ndarray) -> Estimate:
    """The mean of the values; each draw of rows takes as many seeds as there are, with repetition.

    Source: Davison & Hinkley 1997, section 3.8: both sources of chance are drawn again.
    """
    seeds, count = draws.shape
    picks = np.random.Generator(np.random.Philox(0)).integers(0, seeds, (seeds, count))
    means = draws[picks, np.arange(count)].mean(0)
    means = means[~np.isnan(means)]
    if not len(means):
        return Estimate(float(np.mean(values)), math.nan, math.nan)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(np.mean(values)), float(low), float(high))


def rows_needed(value: float, curve: Sequence[tuple[int, float]], higher: bool) -> float | None:
    """With about how many rows a learning curve first reaches a value, between two of its points along the logarithm of the rows.

    Args:
        value: to be reached.
        curve: rows and the metric there, by rows.
        higher: whether more of the metric is better.

    Returns:
        The rows; 0 where the first point is better already; None where the last one is not as good.
    """
    sign = 1.0 if higher else -1.0
    target, points = sign * value, [(math.log(rows), sign * score) for rows, score in curve]
    if points[0][1] >= target:
        return 0.0 if points[0][1] > target else float(curve[0][0])
    for (before, low), (after, high) in pairwise(points):
        if high >= target:
            return math.exp(before + (target - low) / (high - low) * (after - before))
    return None
