"""The numbers a person reads, each a function of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.types import Scores


@dataclass(frozen=True)
class Metric:
    """A number and which way is better.

    Args:
        value: scores and chosen rows (with repetition) → the number.
        higher: whether more is better.
        about: one line for a person.
    """

    value: Callable[[Scores, np.ndarray], float]
    higher: bool
    about: str


def accuracy(scores: Scores, rows: np.ndarray) -> float:
    """Share of rows whose likeliest class is the right one."""
    return float(_right(scores)[rows].mean())


def macro_f1(scores: Scores, rows: np.ndarray) -> float:
    """The F1 of each class that is there or was named, averaged with equal weight."""
    assert scores.target is not None and scores.probabilities is not None
    table = confusion(scores.target[rows], scores.probabilities.argmax(1)[rows], scores.probabilities.shape[1])
    met = table.sum(0) + table.sum(1)
    return float((2 * table.diagonal()[met > 0] / met[met > 0]).mean())


def loss(scores: Scores, rows: np.ndarray) -> float:
    """Nats for each learned unit (a row, or a token)."""
    return float(scores.loss[rows].sum() / scores.count[rows].sum())


def bits_per_byte(scores: Scores, rows: np.ndarray) -> float:
    """Bits for each byte of the answers: comparable between tokenizers."""
    assert scores.bytes is not None
    return float(scores.loss[rows].sum() / np.log(2) / scores.bytes[rows].sum())


def calibration_error(scores: Scores, rows: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal size (adaptive ECE; Nguyen & O'Connor 2015)."""
    assert scores.probabilities is not None
    bins = calibration(scores, rows)
    return float(sum(part["n"] * abs(part["confidence"] - part["accuracy"]) for part in bins) / len(rows))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, True, "share of rows given the right class"),
    "macro_f1": Metric(macro_f1, True, "F1 averaged over the classes"),
    "loss": Metric(loss, False, "nats for each learned unit"),
    "bits_per_byte": Metric(bits_per_byte, False, "bits for each byte of the answers"),
    "calibration_error": Metric(calibration_error, False, "gap between confidence and accuracy"),
}


def measure(scores: Scores, names: tuple[str, ...]) -> dict[str, float]:
    """Several metrics over all rows."""
    rows = np.arange(len(scores.loss))
    return {name: METRICS[name].value(scores, rows) for name in names}


def _right(scores: Scores) -> np.ndarray:
    assert scores.target is not None and scores.probabilities is not None
    return scores.probabilities.argmax(1) == scores.target


def confusion(target: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each, # (true class, said class)"""
    return np.bincount(target * classes + said, minlength=classes**2).reshape(classes, classes)


def per_class(scores: Scores, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class."""
    assert scores.target is not None and scores.probabilities is not None
    table = confusion(scores.target, scores.probabilities.argmax(1), len(labels))
    said, there, right = table.sum(0), table.sum(1), table.diagonal()
    return [
        {
            "label": label,
            "n": int(there[k]),
            "precision": float(right[k] / said[k]) if said[k] else 0.0,
            "recall": float(right[k] / there[k]) if there[k] else 0.0,
            "f1": float(2 * right[k] / (said[k] + there[k])) if said[k] + there[k] else 0.0,
        }
        for k, label in enumerate(labels)
    ]


def calibration(scores: Scores, rows: np.ndarray | None = None, bins: int = 15) -> list[dict[str, float]]:
    """Confidence and accuracy in bins of equal size, least confident first."""
    assert scores.probabilities is not None
    rows = np.arange(len(scores.loss)) if rows is None else rows
    confidence, right = scores.probabilities.max(1)[rows], _right(scores)[rows]
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, max(1, len(rows) // 10)))
    return [
        {"confidence": float(confidence[part].mean()), "accuracy": float(right[part].mean()), "n": len(part)} for part in parts if len(part)
    ]


def rouge_l(said: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004, section 3.2), on lower-cased words and numbers."""
    import re

    one, two = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, reference))
    if not one or not two:
        return 0.0
    lengths = [0] * (len(two) + 1)
    for word in one:
        previous = 0
        for place, other in enumerate(two, 1):
            previous, lengths[place] = lengths[place], previous + 1 if word == other else max(lengths[place], lengths[place - 1])
    common = lengths[-1]
    return 2 * common / (len(one) + len(two))
