"""Temperature scaling: one number that makes a classifier as sure as it is right, and changes none of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.randomness import mix
from luthier.core.types import Scores
from luthier.evaluation.metrics import calibration_bins

COLDEST, HOTTEST = 0.05, 20.0
SPREAD = 0.5
"""Standard deviation of the prior on log T, around 0: on few rows it keeps T near 1, on a thousand it says nothing."""
FEWEST = 20
"""Rows whose target is known; with fewer the temperature stays at 1."""
SMALLEST = 1e-30
SURE = 1e-16
"""Probabilities are no nearer to 0 and 1 than this where their log-odds are taken: at 1 numbers of 64 bits lie no closer."""
DRAWS = 200
"""How often labels are drawn, to see what a calibration error is by chance."""


def fit_temperature(scores: Scores) -> float:
    """The temperature that makes held-out rows likeliest; on few rows it stays near 1.

    Args:
        scores: of a classifier on validation rows.

    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    assert scores.probabilities is not None and scores.target is not None
    known = scores.target >= 0
    logged, target = np.log(np.maximum(scores.probabilities[known], SMALLEST)), scores.target[known]
    return likeliest_temperature(lambda rows, temperature: _losses(logged[rows], target[rows], temperature), len(target))


def likeliest_temperature(losses: Callable[[Any, float], np.ndarray], count: int) -> float:
    """The temperature with the least loss, a prior around 1 included.

    It is not asked whether the temperature helps on rows that it was not fitted on: on few rows that cannot be told, and 1 is no better guess
    (docs/log/2026-11.md#confidence-that-holds).

    Args:
        losses: an index of rows, and a temperature → the log loss of each of these rows, # (rows,)
        count: of all rows; with fewer than `FEWEST` the temperature is 1.
    """
    if count < FEWEST:
        return 1.0
    return round(_likeliest(lambda tried: losses(slice(None), tried)), 4)


def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """What a classifier says with its logits divided by the temperature.

    Args:
        scores: with class probabilities.
        temperature: above 1 less sure, below 1 surer.
    """
    assert scores.probabilities is not None
    if temperature == 1.0:
        return scores
    return _scores(_log_softmax(np.log(np.maximum(scores.probabilities, SMALLEST)) / temperature), scores)


def log_odds(likely: np.ndarray) -> np.ndarray:
    """Of probabilities of any shape."""
    return np.log(np.maximum(likely, SURE)) - np.log(np.maximum(1 - likely, SURE))


def label_losses(logits: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """The cross-entropy of each label of each row.

    Args:
        logits: # (rows, labels)
        actual: 1 where the row has the label, 0 where not, # (rows, labels)
    """
    return np.logaddexp(0, np.where(actual >= 0.5, -logits, logits))


def average_scores(one: Scores, other: Scores) -> Scores:
    """What two classifiers say together: the mean of their probabilities.

    Args:
        one: with class probabilities.
        other: of the same rows in the same order.
    """
    assert one.probabilities is not None and other.probabilities is not None
    return _scores(np.log(np.maximum((one.probabilities + other.probabilities) / 2, SMALLEST)), one)


def chance_calibration_error(scores: Scores, draws: int = DRAWS) -> float:
    """The calibration error that a perfectly calibrated model would show on so many rows: the mean over labels that are drawn from its own probabilities.

    The bins are small, so an accuracy in a bin differs from the confidence there even where both are the same in truth.

    Source: Bröcker & Smith 2007, "Increasing the Reliability of Reliability Diagrams" (consistency resampling).

    Args:
        scores: with class probabilities; their targets are not looked at.
        draws: how often labels are drawn, the same each time.

    Returns:
        From 0 to 1.
    """
    assert scores.probabilities is not None
    confidence = scores.probabilities.max(1)
    parts = calibration_bins(confidence)
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    order = np.concatenate(parts)
    ordered, rows = confidence[order], np.arange(len(order))
    total = 0.0
    for draw in range(draws):
        right = mix("calibration", draw, rows) / 2.0**64 < ordered
        total += float(np.abs(np.add.reduceat(ordered - right, starts)).sum()) / len(rows)
    return total / draws


def _scores(logged: np.ndarray, like: Scores) -> Scores:
    """Scores of log probabilities, # (rows, classes); a row without a class has no loss."""
    assert like.target is not None
    loss = -np.take_along_axis(logged, np.maximum(like.target, 0)[:, None], 1)[:, 0]
    return replace(like, loss=np.where(like.target < 0, np.nan, loss), probabilities=np.exp(logged))


def _likeliest(losses: Callable[[float], np.ndarray]) -> float:
    """The temperature with the least loss on some rows, the prior's share included."""
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        return float(losses(float(np.exp(log_temperature))).sum() + log_temperature**2 / (2 * SPREAD**2))

    minimum = minimize_scalar(cost, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(minimum.x))  # type: ignore[attr-defined]


def _losses(logged: np.ndarray, target: np.ndarray, temperature: float) -> np.ndarray:
    """The loss of each row at a temperature, # (rows,)"""
    return -np.take_along_axis(_log_softmax(logged / temperature), target[:, None], 1)[:, 0]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
