"""Where a classifier is right and wrong, class by class, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.metrics import calibration, confusion


def per_class(scores: Scores, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class."""
    assert scores.target is not None and scores.probabilities is not None
    table = confusion(scores.target, scores.probabilities.argmax(1), len(labels))
    predicted, there, right = table.sum(0), table.sum(1), table.diagonal()
    return [
        {
            "label": label,
            "n": int(there[k]),
            "precision": float(right[k] / predicted[k]) if predicted[k] else 0.0,
            "recall": float(right[k] / there[k]) if there[k] else 0.0,
            "f1": float(2 * right[k] / (predicted[k] + there[k])) if predicted[k] + there[k] else 0.0,
        }
        for k, label in enumerate(labels)
    ]


def find_never_predicted(scores: Scores) -> list[int]:
    """The classes that some rows have and that no row was given, by number."""
    if scores.target is None or scores.probabilities is None:
        return []
    return np.setdiff1d(scores.target[scores.target >= 0], scores.probabilities.argmax(1)).tolist()


def describe_classes(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """Where a classifier is right, wrong, and too sure, for the report.

    Args:
        scores: on the test rows.
        labels: the classes, in order.
    """
    assert scores.target is not None and scores.probabilities is not None
    return {
        "labels": list(labels),
        "per_class": per_class(scores, tuple(labels)),
        "confusion": confusion(scores.target, scores.probabilities.argmax(1), len(labels)).tolist(),
        "calibration": calibration(scores),
    }
