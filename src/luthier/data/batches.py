"""Which examples make which step: a pure function of the seed and the step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from luthier.core.randomness import permutation


@lru_cache(maxsize=2)
def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch goes through the training examples, # (count,)"""
    return permutation(count, seed, "order", epoch)


@lru_cache(maxsize=2)
def balanced_order(classes: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """An order of the same length in which every class comes equally often: rows of rare classes come again, of frequent ones some rest this epoch.

    Args:
        classes: of each training example.
        seed: of the experiment.
        epoch: counted from 0.

    Returns:
        # (count,)
    """
    labels, count = np.array(classes), len(classes)
    kinds = np.unique(labels)
    rows = []
    for index, kind in enumerate(kinds):
        members = np.flatnonzero(labels == kind)
        members = members[permutation(len(members), seed, "turns", int(kind))]
        share = count // len(kinds)
        slots = share + ((index + epoch) % len(kinds) < count % len(kinds))
        rows.append(members[(epoch * share + np.arange(slots)) % len(members)])  # they take turns from epoch to epoch
    sample = np.concatenate(rows)
    return sample[permutation(count, seed, "order", epoch)]


def steps_in_epoch(count: int, batch_size: int) -> int:
    """How many steps see every example once; the last may be smaller."""
    return -(-count // batch_size)


def choose_rows(step: int, count: int, batch_size: int, seed: int, classes: tuple[int, ...] | None = None) -> np.ndarray:
    """The positions of the examples that make a step.

    Args:
        step: counted from 0 over the whole run.
        count: training examples.
        batch_size: examples a step.
        seed: of the experiment.
        classes: of each example, where every class shall come equally often.

    Returns:
        Positions in the list of training examples, # (≤ batch_size,)
    """
    epoch, within = divmod(step, steps_in_epoch(count, batch_size))
    whole = order(count, seed, epoch) if classes is None else balanced_order(classes, seed, epoch)
    return whole[within * batch_size : (within + 1) * batch_size]
