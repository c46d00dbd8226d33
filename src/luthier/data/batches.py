"""Which examples make which step: a pure function of the seed and the step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from luthier.core.randomness import permutation


@lru_cache(maxsize=2)
def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch goes through the training examples, # (count,)"""
    return permutation(count, seed, "order", epoch)


def steps_in_epoch(count: int, batch_size: int) -> int:
    """How many steps see every example once; the last may be smaller."""
    return -(-count // batch_size)


def choose(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """The positions of the examples that make a step.

    Args:
        step: counted from 0 over the whole run.
        count: training examples.
        batch_size: examples a step.
        seed: of the experiment.

    Returns:
        Positions in the list of training examples, # (≤ batch_size,)
    """
    epoch, within = divmod(step, steps_in_epoch(count, batch_size))
    return order(count, seed, epoch)[within * batch_size : (within + 1) * batch_size]
