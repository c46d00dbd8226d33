"""The log loss of each row after fitting one temperature on these rows, so that over-confidence does not count."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores

TEMPERATURES = np.geomspace(0.25, 64.0, 65)


def temperature_scaled_loss(scores: Scores) -> np.ndarray:
    """The loss of each row that has one, # (rows,)

    Of two classifiers the one that is more often right may have the greater plain loss, because it is surer of its mistakes; at its own temperature it
    has not. Where there are no class probabilities, it is the plain loss of each learned unit.

    Args:
        scores: on held-out rows.

    Source: Guo et al. 2017, "On calibration of modern neural networks" (one temperature for all rows).
    """
    mask = scores.count > 0
    if scores.probabilities is None or scores.target is None:
        return scores.loss[mask] / scores.count[mask]
    logged = np.log(np.maximum(scores.probabilities[mask], 1e-30))
    rows, target = np.arange(len(logged)), scores.target[mask]
    best = np.empty(0)
    for temperature in TEMPERATURES:
        cooled = logged / temperature
        losses = np.log(np.exp(cooled - cooled.max(1, keepdims=True)).sum(1)) + cooled.max(1) - cooled[rows, target]
        if not len(best) or losses.mean() < best.mean():
            best = losses
    return best
