"""Bootstrap resamples as counts of how often each row was drawn, a chunk of draws at a time, and sums over them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

DRAWS = 2000
"""Resamples of an interval."""
CHUNK = 1 << 22
"""Counts that are worked on at a time: 32 MB."""
SHARED = 1 << 26
"""Counts, a byte each, that are kept so that all models of a verdict share them; with more rows they are drawn again for each."""


def counts_of_rows(count: int, seed: int, draws: int = DRAWS) -> Iterator[np.ndarray]:
    """How often each row is in each resample; the same seed gives the same resamples, whatever model is measured on them.

    Args:
        count: rows.
        seed: of the resampling.
        draws: how many resamples.

    Yields:
        Chunks, # (draws in the chunk, count)
    """
    step = max(1, CHUNK // max(count, 1))
    if count * draws <= SHARED:
        whole = _all_counts(count, seed, draws)
        parts = (whole[start : start + step] for start in range(0, draws, step))
    else:
        random = np.random.Generator(np.random.Philox(seed))
        parts = (_counts(random, count, min(step, draws - start)) for start in range(0, draws, step))
    for part in parts:
        yield np.ascontiguousarray(part.T, dtype=np.float64).T  # a row's counts side by side: what is gathered is rows


@lru_cache(maxsize=1)
def _all_counts(count: int, seed: int, draws: int) -> np.ndarray:
    return _counts(np.random.Generator(np.random.Philox(seed)), count, draws)


def _counts(random: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """The next resamples, # (draws, count)"""
    counts = np.empty((draws, count), dtype=np.uint8)
    for draw in range(draws):
        counts[draw] = np.bincount(random.integers(0, count, count), minlength=count)
    return counts


def sum_by_class(counts: np.ndarray, rows: np.ndarray, classes: np.ndarray, number: int) -> np.ndarray:
    """For each draw and class, how often rows of this class were drawn, # (draws, number)

    Args:
        counts: of a chunk of draws, # (draws, all rows)
        rows: those that take part, # (rows,)
        classes: of these rows, # (rows,)
        number: of classes.
    """
    sums = np.zeros((len(counts), number))
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    if len(present):
        sums[:, present] = np.add.reduceat(counts.T[rows[order]], starts, axis=0).T
    return sums
