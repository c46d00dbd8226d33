"""From which probability on each of several labels is said: one half, or what gives validation rows the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luthier.core.types import Scores

HALF = 0.5
"""A label is said from this probability on, where no threshold is fitted."""
LEAST, MOST = 0.02, 0.98
"""Thresholds lie between these."""


def apply_thresholds(scores: Scores, thresholds: Sequence[float]) -> Scores:
    """Scores of which a label is said from its threshold on; of others it is said from one half on.

    Args:
        scores: of several labels.
        thresholds: # (labels,)
    """
    return replace(scores, more={**scores.more, "fitted_thresholds": np.tile(np.asarray(thresholds, dtype=float), (len(scores.loss), 1))})


def predicted_labels(scores: Scores) -> np.ndarray:
    """Which labels are said of each row, # (rows, labels), bool"""
    return scores.more["predicted"] >= scores.more.get("fitted_thresholds", HALF)


def fit_thresholds(likely: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The threshold with the best F1 over all labels together, for each of them the same, # (labels,)

    One for each label is noise where few validation rows have it: on other rows it was worse (docs/log/2026-11.md#thresholds-for-several-labels).

    Args:
        likely: probabilities on validation rows, # (rows, labels)
        there: whether a row has the label, # (rows, labels), bool
    """
    return np.full(likely.shape[1], best_threshold(likely.ravel(), there.ravel()))


def best_threshold(likely: np.ndarray, there: np.ndarray) -> float:
    """The threshold with the best F1, in the middle between two probabilities; of several the nearest to one half.

    Args:
        likely: probabilities of a label, or of several, end to end, # (decisions,)
        there: whether the row has it, # (decisions,), bool
    """
    values = _log_odds(np.unique(np.clip(likely, 1e-9, 1 - 1e-9)))
    between = 1 / (1 + np.exp(-(values[1:] + values[:-1]) / 2))
    tried = np.array([HALF, *between[(between >= LEAST) & (between <= MOST)]])
    said = likely >= tried[:, None]
    scored = 2 * (said & there).sum(1) / np.maximum(said.sum(1) + there.sum(), 1)
    best = tried[scored >= scored.max() - 1e-12]
    return float(best[np.abs(_log_odds(best)).argmin()])


def _log_odds(likely: np.ndarray) -> np.ndarray:
    return np.log(likely) - np.log1p(-likely)
