"""The area under the ROC curve, by sorting; of many resamples at once.

Source: Hanley & McNeil 1982; for the resamples of several classes DeLong, DeLong & Clarke-Pearson 1988.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.resamples import sum_by_class


def auc(scores: Scores, rows: np.ndarray) -> float:
    """Chance that a row of a class gets a higher probability for it than a row of another; the mean over the classes where there are more than two, 0.5 where all rows are of one class."""
    assert scores.target is not None and scores.probabilities is not None
    target, probabilities = scores.target[rows], scores.probabilities[rows]
    areas = [
        _components(probabilities[:, k], target == k)[0] for k in _counted_classes(probabilities) if 0 < (target == k).sum() < len(target)
    ]
    return float(np.mean(areas)) if areas else 0.5


def auc_of_resamples(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    """Counts of the rows in each resample → the area in each: exact for two classes; for more, its first-order expansion (DeLong's components)."""
    assert scores.target is not None and scores.probabilities is not None
    if scores.probabilities.shape[1] == 2:
        return _of_two_classes(scores.probabilities[:, 1], scores.target == 1)
    return _of_many_classes(scores.probabilities, scores.target)


def anomaly_auc(scores: Scores, rows: np.ndarray) -> float:
    """Chance that an abnormal row has a higher anomaly score than a normal one; NaN where the rows of one kind are missing."""
    kind, values = scores.more["abnormal"][rows], scores.more["anomaly"][rows]
    known = kind >= 0
    positive = kind[known] > 0
    return _components(values[known], positive)[0] if 0 < positive.sum() < len(positive) else float("nan")


def anomaly_auc_of_resamples(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    """Counts of the rows in each resample → the area in each; NaN where the rows of one kind are missing."""
    known = scores.more["abnormal"] >= 0
    if not known.any():
        return lambda counts: np.full(len(counts), np.nan)
    area = _of_two_classes(scores.more["anomaly"][known], scores.more["abnormal"][known] > 0)
    return lambda counts: area(counts[:, known])


def _counted_classes(probabilities: np.ndarray) -> range:
    """Classes whose area counts: the second of two, all of more."""
    classes = probabilities.shape[1]
    return range(1, 2) if classes == 2 else range(classes)


def _components(values: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The area, and each row's share in it: of a positive row the negatives below it, of a negative row the positives above it; a tie counts half."""
    order = np.argsort(values, kind="stable")
    _, first, inverse, sizes = np.unique(values[order], return_index=True, return_inverse=True, return_counts=True)
    positives, negatives = positive.sum(), len(positive) - positive.sum()
    sorted_positive = positive[order].astype(np.float64)
    positive_here = np.add.reduceat(sorted_positive, first)
    negative_here = sizes - positive_here
    negatives_below = np.cumsum(negative_here) - negative_here / 2
    positives_above = positives - np.cumsum(positive_here) + positive_here / 2
    share = np.empty(len(values))
    share[order] = np.where(sorted_positive > 0, negatives_below[inverse] / negatives, positives_above[inverse] / positives)
    return float(share[positive].mean()), share


def _of_two_classes(values: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    order = np.argsort(values, kind="stable")
    _, first = np.unique(values[order], return_index=True)
    positive = positive[order]

    def area(counts: np.ndarray) -> np.ndarray:
        ordered = counts.T[order]
        positives = np.add.reduceat(ordered * positive[:, None], first, axis=0)
        negatives = np.add.reduceat(ordered * ~positive[:, None], first, axis=0)
        below = np.cumsum(negatives, axis=0) - negatives / 2
        pairs = positives.sum(0) * negatives.sum(0)
        return np.where(pairs > 0, (positives * below).sum(0) / np.maximum(pairs, 1), np.nan)

    return area


def _of_many_classes(probabilities: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    count, classes = probabilities.shape
    own = np.zeros(count)  # a row's share in the area of its own class
    others = np.zeros((count, classes), dtype=np.float32)  # and in those of the others
    whole = np.full(classes, np.nan)
    rows = np.arange(count)
    for k in range(classes):
        positive = target == k
        if 0 < positive.sum() < count:
            whole[k], share = _components(probabilities[:, k], positive)
            own[positive], others[~positive, k] = share[positive], share[~positive]

    def area(counts: np.ndarray) -> np.ndarray:
        positives = sum_by_class(counts, rows, target, classes)
        negatives = counts.sum(1, keepdims=True) - positives
        there = (positives > 0) & (negatives > 0) & ~np.isnan(whole)
        of_own = sum_by_class(counts * own, rows, target, classes) / np.maximum(positives, 1)
        of_others = counts.astype(np.float32) @ others / np.maximum(negatives, 1)
        return np.where(there, of_own + of_others - np.nan_to_num(whole), 0.0).sum(1) / np.maximum(there.sum(1), 1)

    return area
