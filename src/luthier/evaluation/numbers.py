"""Metrics of numbers: what was predicted against what was there; and of labels of which a row may have several."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.label_thresholds import predicted_labels


def mean_absolute_error(scores: Scores, rows: np.ndarray) -> float:
    """The mean distance, in the target's own unit."""
    return float(np.abs(_gap(scores, rows)).mean())


def root_mean_squared_error(scores: Scores, rows: np.ndarray) -> float:
    """The root of the mean squared distance, in the target's own unit."""
    return float(np.sqrt((_gap(scores, rows) ** 2).mean()))


def r2(scores: Scores, rows: np.ndarray) -> float:
    """The share of the target's variance that is explained: 1 for all, 0 for no better than the mean of these rows."""
    actual = scores.more["actual"][rows]
    spread = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float((_gap(scores, rows) ** 2).sum()) / spread if spread else 0.0


def spearman(scores: Scores, rows: np.ndarray) -> float:
    """The rank correlation of what was predicted and what was there; 0 where one of them does not vary."""
    from scipy.stats import rankdata

    one, two = (rankdata(scores.more[name][rows]) for name in ("predicted", "actual"))
    spread = one.std() * two.std()
    return float(((one - one.mean()) * (two - two.mean())).mean() / spread) if spread else 0.0


def micro_f1(scores: Scores, rows: np.ndarray) -> float:
    """F1 over all labels of all rows together, where a row may have several."""
    right, predicted, there = _labels(scores, rows)
    return float(2 * right.sum() / max(float(predicted.sum() + there.sum()), 1.0))


def label_macro_f1(scores: Scores, rows: np.ndarray) -> float:
    """F1 of each label that is there or was named, averaged with equal weight."""
    right, predicted, there = _labels(scores, rows)
    met = predicted + there > 0
    return float((2 * right[met] / (predicted + there)[met]).mean()) if met.any() else 0.0


def exact_match(scores: Scores, rows: np.ndarray) -> float:
    """The share of rows all of whose labels are right, none missing and none too many."""
    predicted, actual = predicted_labels(scores)[rows], scores.more["actual"][rows] >= 0.5
    return float((predicted == actual).all(1).mean())


def masked_accuracy(scores: Scores, rows: np.ndarray) -> float:
    """The share of hidden tokens whose likeliest token is the right one."""
    return float(scores.more["right"][rows].sum() / max(float(scores.count[rows].sum()), 1.0))


def perplexity(scores: Scores, rows: np.ndarray) -> float:
    """The exponential of the mean loss: among how many tokens the model hesitates."""
    return float(np.exp(min(scores.loss[rows].sum() / max(float(scores.count[rows].sum()), 1.0), 700.0)))


def _gap(scores: Scores, rows: np.ndarray) -> np.ndarray:
    return scores.more["predicted"][rows] - scores.more["actual"][rows]


def _labels(scores: Scores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each label, how many rows are right, named and there, # (labels,)"""
    predicted, actual = predicted_labels(scores)[rows], scores.more["actual"][rows] >= 0.5
    return (predicted & actual).sum(0).astype(float), predicted.sum(0).astype(float), actual.sum(0).astype(float)
