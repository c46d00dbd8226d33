"""An n-gram model with modified Kneser–Ney smoothing, on the same tokens: what counting alone predicts.

Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from luthier.core.randomness import mix

ORDER = 5
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
PAD = -1
"""Stands before a document: no token has this number."""


@dataclass(frozen=True)
class Level:
    """What was counted of n-grams of one length.

    Args:
        grams: hashes, sorted, # (n-grams,)
        counts: of each; of those shorter than the longest, before how many different tokens it was seen, # (n-grams,)
        contexts: hashes of their first n-1 tokens, sorted, # (contexts,)
        totals: what the counts behind a context add up to, # (contexts,)
        left: what the discounts take from a context in all, # (contexts,)
        discounts: of counts of 1, 2, and 3 or more.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    left: np.ndarray
    discounts: np.ndarray


class KneserNey:
    """Counts of the training documents, and the probabilities that follow.

    Args:
        documents: their tokens, # (tokens,) each
        vocabulary: how many tokens there are.
        order: the length of the longest n-gram.
    """

    def __init__(self, documents: Iterable[np.ndarray], vocabulary: int, order: int = ORDER) -> None:
        self.vocabulary, self.order = vocabulary, order
        padded = [_pad(tokens, order) for tokens in documents]
        first = np.concatenate([_windows(tokens, order) for tokens in padded]) if padded else np.empty((0, order), dtype=np.int32)
        longest, indices, counts = np.unique(_hashes(first)[:, 0], return_index=True, return_counts=True)
        self.levels: list[Level] = [_level(longest, counts, _hashes(first[indices], stop=-1)[:, 0])]
        distinct = first[indices]
        for _ in range(order - 1):
            distinct = distinct[:, 1:]  # before how many different tokens was it seen: once for each longer n-gram
            grams, indices, counts = np.unique(_hashes(distinct)[:, 0], return_index=True, return_counts=True)
            distinct = distinct[indices]
            self.levels.insert(0, _level(grams, counts, _hashes(distinct, stop=-1)[:, 0]))

    def losses(self, tokens: np.ndarray) -> np.ndarray:
        """What each token but the first loses, in nats, behind those before it.

        Args:
            tokens: of a document, or of a block, # (tokens,)

        Returns:
            # (tokens - 1,)
        """
        windows = _windows(_pad(tokens, self.order), self.order)
        share = np.full(len(windows), 1.0 / self.vocabulary)
        for length, level in enumerate(self.levels, 1):
            part = windows[:, self.order - length :]
            counts = _look_up(_hashes(part)[:, 0], level.grams, level.counts)
            context = _hashes(part, stop=-1)[:, 0]
            totals, left = (_look_up(context, level.contexts, values) for values in (level.totals, level.left))
            discount = level.discounts[np.minimum(counts, 3).astype(np.int64)]
            known = totals > 0
            share = np.where(known, (np.maximum(counts - discount, 0) + left * share) / np.where(known, totals, 1), share)
        return -np.log(share)


def _pad(tokens: np.ndarray, order: int) -> np.ndarray:
    """A document with what stands before it, so that its second token has as long a past as any."""
    return np.concatenate([np.full(order - 2, PAD, dtype=np.int32), np.asarray(tokens, dtype=np.int32)])


def _windows(padded: np.ndarray, order: int) -> np.ndarray:
    """Every token but the first with those before it, # (tokens - 1, order)"""
    if len(padded) < order:
        return np.empty((0, order), dtype=np.int32)
    return np.lib.stride_tricks.sliding_window_view(padded, order)


def _hashes(windows: np.ndarray, stop: int | None = None) -> np.ndarray:
    """A number for each window (without its last token where `stop` is -1), # (windows, n) → (windows, 1)"""
    state = np.full(len(windows), 0x243F6A8885A308D3, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(windows.shape[1] + (stop or 0)):
            state = (state ^ (windows[:, column].astype(np.uint64) + np.uint64(column + 1))) * MULTIPLIER
            state ^= state >> np.uint64(29)
    return state[:, None]


def _level(grams: np.ndarray, counts: np.ndarray, contexts: np.ndarray) -> Level:
    """The discounts of these counts, and what they leave to shorter n-grams behind each context."""
    many = np.array([(counts == size).sum() for size in (1, 2, 3, 4)], dtype=np.float64)
    share = many[0] / max(many[0] + 2 * many[1], 1)
    estimates = [size - (size + 1) * share * many[size] / many[size - 1] if many[size - 1] else 0.5 * size for size in (1, 2, 3)]
    discounts = np.array([0.0, *(float(np.clip(value, 0.05, size - 0.05)) for size, value in enumerate(estimates, 1))])
    distinct, group = np.unique(contexts, return_inverse=True)
    totals = np.bincount(group, weights=counts, minlength=len(distinct))
    left = np.bincount(group, weights=discounts[np.minimum(counts, 3)], minlength=len(distinct))
    return Level(grams, counts.astype(np.float64), distinct, totals, left, discounts)


def _look_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each key, 0 where it is not known."""
    if not len(known):
        return np.zeros(len(keys))
    positions = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[positions] == keys, values[positions], 0.0)


def few_of(documents: int, share: float, seed: int = 0) -> np.ndarray:
    """Which of the documents are counted where there are too many: about this share of them, by chance, one at least, # (documents,)

    Args:
        documents: how many.
        share: 1 or more takes all.
        seed: of the chance.
    """
    if share >= 1:
        return np.ones(documents, dtype=bool)
    draws = mix(seed, "n-grams", np.arange(documents)).astype(np.float64) / 2**64
    return (draws < share) | (draws == draws.min())
