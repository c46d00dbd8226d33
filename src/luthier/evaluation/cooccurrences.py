"""How often words stand near each other, counted in pieces, so that memory holds what is counted and not the corpus."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BUFFER = 4_000_000
"""Pairs that are held before they are added up."""


def count_pairs(
    texts: Iterable[np.ndarray], vocabulary: int, weights: np.ndarray, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted counts of the pairs of words that stand near each other, in either order.

    Args:
        texts: the numbers of each text's words; pairs do not reach from one text into the next.
        vocabulary: how many words there are.
        weights: of a pair at each distance, from 1 on, # (window,)
        kept: the share of each word's places that counts, # (vocabulary,); None for all of them.

    Returns:
        The first word, the second word and the count of each pair that is there, ordered by both, # (pairs,) each
    """
    keys, values = np.empty(0, dtype=np.int64), np.empty(0)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for words, owners in _join_texts(texts):
        factor = None if kept is None else kept[words]
        for distance, weight in enumerate(weights, 1):
            same = owners[distance:] == owners[:-distance]
            one, two = words[:-distance][same], words[distance:][same]
            worth = np.full(len(one), float(weight)) if factor is None else weight * factor[:-distance][same] * factor[distance:][same]
            waiting.append((one * vocabulary + two, worth))
            waiting.append((two * vocabulary + one, worth))
            size += 2 * len(one)
        if size > BUFFER:
            keys, values = _add_counts(keys, values, waiting)
            waiting, size = [], 0
    keys, values = _add_counts(keys, values, waiting)
    return keys // vocabulary, keys % vocabulary, values


def _join_texts(texts: Iterable[np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Texts end to end, some hundred thousand words at a time, with the number of the text of each word."""
    waiting: list[np.ndarray] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size > BUFFER // 16:
            yield _number_words(waiting)
            waiting, size = [], 0
    if waiting:
        yield _number_words(waiting)


def _number_words(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(texts).astype(np.int64), np.repeat(np.arange(len(texts)), [len(text) for text in texts])


def _add_counts(keys: np.ndarray, values: np.ndarray, more: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys with their sums, and more of both added."""
    every = np.concatenate([keys, *(key for key, _ in more)])
    worth = np.concatenate([values, *(value for _, value in more)])
    order = np.argsort(every, kind="stable")
    every, worth = every[order], worth[order]
    if not len(every):
        return every, worth
    firsts = np.flatnonzero(np.concatenate([[True], every[1:] != every[:-1]]))
    return every[firsts], np.add.reduceat(worth, firsts)
