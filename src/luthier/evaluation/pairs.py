"""Metrics of pairs: which of two answers a model prefers, by how much, and how far it has gone from where it began."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores

SAME = 1e-9
"""Nearer than this, two answers are liked equally: half of such pairs count as right."""


def pair_accuracy(scores: Scores, rows: np.ndarray) -> float:
    """Share of pairs whose better answer gained more, in log-probability, than the worse one."""
    return _share(right_pairs(scores), scores, rows)


def length_normalised_accuracy(scores: Scores, rows: np.ndarray) -> float:
    """The same, with what an answer gained divided by its tokens."""
    return _share(right_per_token(scores), scores, rows)


def reward_margin(scores: Scores, rows: np.ndarray) -> float:
    """By how much the reward of the better answers is higher than that of the worse ones, in the mean."""
    return _share(scores.more["reward"] * scores.count, scores, rows)


def drift(scores: Scores, rows: np.ndarray) -> float:
    """How far the model has gone from the reference, in nats a token of the better answers: an estimate of the KL divergence.

    Source: Schulman 2020, "Approximating KL Divergence" (k2, half the squared log-ratio: it is never negative, and no single token can blow it up).
    """
    return float(scores.more["drift"][rows].sum() / max(float(scores.more["chosen_tokens"][rows].sum()), 1.0))


def right_pairs(scores: Scores) -> np.ndarray:
    """Of each pair 1 where the better answer gained more, 0 where less, a half where neither; 0 where it teaches nothing, # (pairs,)"""
    return _sign(scores.more["reward"]) * scores.count


def right_per_token(scores: Scores) -> np.ndarray:
    """The same a token, # (pairs,)"""
    sides = [scores.more[side] / np.maximum(scores.more[f"{side}_tokens"], 1) for side in ("chosen", "rejected")]
    return _sign(sides[0] - sides[1]) * scores.count


def _sign(lead: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(lead), np.nan, np.where(np.abs(lead) < SAME, 0.5, (lead > 0).astype(float)))


def _share(values: np.ndarray, scores: Scores, rows: np.ndarray) -> float:
    return float(values[rows].sum() / max(float(scores.count[rows].sum()), 1.0))
