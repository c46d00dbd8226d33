"""How much an answer has in common with its reference: chrF and ROUGE-L."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

ORDERS = 6
"""Lengths of character n-grams that chrF counts."""
BETA = 2.0
"""How much more recall counts than precision in chrF."""


def chrf_counts(said: str, reference: str) -> np.ndarray:
    """For each length of n-gram: how many the answer has, how many the reference has, and how many they share, # (3 * ORDERS,)

    Spaces are left out. The counts of many rows are added up before chrF is taken, so a resample of rows is a sum.

    Args:
        said: the answer.
        reference: what was to be said.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; the details are sacreBLEU 2's defaults.
    """
    ours, theirs = ("".join(text.split()) for text in (said, reference))
    counts = []
    for order in range(1, ORDERS + 1):
        one, two = (Counter(text[start : start + order] for start in range(len(text) - order + 1)) for text in (ours, theirs))
        total = two.total()
        counts += [one.total() if total else 0, total, (one & two).total()]
    return np.array(counts, dtype=np.float64)


def chrf_of(counts: np.ndarray) -> np.ndarray:
    """Turn counts that are added up into chrF between 0 and 100, # (..., 3 * ORDERS) → (...)"""
    ours, there, shared = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    counted = (ours > 0) & (there > 0)
    orders = np.maximum(counted.sum(-1), 1)
    precision = np.where(counted, shared / np.maximum(ours, 1), 0.0).sum(-1) / orders
    recall = np.where(counted, shared / np.maximum(there, 1), 0.0).sum(-1) / orders
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0)


def rouge_l(said: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004, section 3.2), on lower-cased words and numbers."""
    one, two = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, reference))
    if not one or not two:
        return 0.0
    lengths = [0] * (len(two) + 1)
    for word in one:
        previous = 0
        for index, other in enumerate(two, 1):
            previous, lengths[index] = lengths[index], previous + 1 if word == other else max(lengths[index], lengths[index - 1])
    common = lengths[-1]
    return 2 * common / (len(one) + len(two))
