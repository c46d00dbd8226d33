"""The log loss of each row after fitting one temperature on these rows, so that over-confidence does not count."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.calibrate import label_losses, log_odds

TEMPERATURES = np.geomspace(0.25, 64.0, 65)


def temperature_scaled_loss(scores: Scores) -> np.ndarray:
    """The loss of each row that has one, # (rows,)

    Of two classifiers the one that is more often right may have the greater plain loss, because it is surer of its mistakes; at its own temperature it
    has not. Of several labels it is the loss of all labels of a row, with one temperature for all. Where there are no probabilities, it is the plain loss of each learned unit.

    Args:
        scores: on held-out rows.

    Source: Guo et al. 2017, "On calibration of modern neural networks" (one temperature for all rows).
    """
    mask = scores.count > 0
    if has_labels(scores):
        odds, actual = log_odds(scores.more["predicted"][mask]), scores.more["actual"][mask]
        return min(
            (label_losses(odds / temperature, actual).sum(1) for temperature in TEMPERATURES), key=lambda losses: float(losses.mean())
        )
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


def has_labels(scores: Scores) -> bool:
    """Whether these are probabilities of several labels a row.

    Args:
        scores: of any family.
    """
    return bool(scores.labels) and "predicted" in scores.more and scores.more["predicted"].ndim == 2
