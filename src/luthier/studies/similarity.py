"""How near a task is to what a base already knows: read off its floors in one pass, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
DRAWS = 2_000
FOLDS = 5
STRENGTHS = np.geomspace(1e-3, 1e3, 13)
MOST_ROWS = 2_000
"""Rows that are read."""
CAPS = ((1_000, 3 / 4), (10_000, 2 / 3), (1 << 62, 1 / 3))
"""Below so many training rows, at most this share of the blocks is kept frozen."""


@dataclass(frozen=True)
class Floor:
    """What can be told from the states behind a number of blocks.

    Args:
        blocks: below it; 0 is the embeddings.
        neighbours: accuracy of the ten nearest neighbours, each row left out in turn.
        probe: accuracy of ridge regression on the classes, out of fold.
        error: standard error of the probe's accuracy.
        h_score: how much of the variance the classes explain, shrunk (Ibrahim et al. 2021); greater is better.
        right: for each row whether the probe was right, # (rows,)
    """

    blocks: int
    neighbours: float
    probe: float
    error: float
    h_score: float
    right: np.ndarray


@dataclass(frozen=True)
class Depth:
    """How many blocks may stay frozen.

    Args:
        blocks: the proposal.
        others: depths that are as good as far as can be told, the cheapest first.
        reason: why.
    """

    blocks: int
    others: tuple[int, ...]
    reason: str


def floors(states: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> list[Floor]:
    """Look at every floor.

    Args:
        states: of rows, # (rows, blocks + 1, width)
        labels: the class of each row, from 0, # (rows,)
        folds: rows of each fold; near-duplicates lie in one.
    """
    return [_floor(number, states[:, number].astype(np.float64), labels, folds) for number in range(states.shape[1])]


def _floor(number: int, rows: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> Floor:
    even = rows - rows.mean(0)
    even /= np.sqrt((even**2).mean()) + 1e-12
    right = probe(even, labels, folds) == labels
    accuracy = float(right.mean())
    error = float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / len(labels)) / len(labels)))
    return Floor(number, float((nearest(even, labels) == labels).mean()), accuracy, error, h_score(even, labels), right)


def nearest(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class that most of the ten nearest other rows have, by the cosine, # (rows,)"""
    unit = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    count = min(NEIGHBOURS, len(rows) - 1)
    near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
    votes = np.zeros((len(rows), labels.max() + 1))
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[near]), 1.0)
    return votes.argmax(1)


def probe(rows: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> np.ndarray:
    """The class that ridge regression on the other folds says, # (rows,); its strength is chosen by generalised cross-validation within them.

    Source: Golub, Heath & Wahba 1979.
    """
    said = np.zeros(len(rows), dtype=np.int64)
    targets = np.eye(labels.max() + 1)[labels]
    for held in folds:
        train = np.setdiff1d(np.arange(len(rows)), held)
        centre, base = rows[train].mean(0), targets[train].mean(0)
        left, size, right = np.linalg.svd(rows[train] - centre, full_matrices=False)
        rotated = left.T @ (targets[train] - base)
        best, weights = np.inf, np.zeros((rows.shape[1], targets.shape[1]))
        for strength in STRENGTHS * len(train):
            share = size**2 / (size**2 + strength)
            residual = targets[train] - base - left @ (share[:, None] * rotated)
            score = float((residual**2).sum()) / max(1 - share.sum() / len(train), 1e-6) ** 2
            if score < best:
                best, weights = score, right.T @ ((share / np.maximum(size, 1e-12))[:, None] * rotated)
        said[list(held)] = ((rows[list(held)] - centre) @ weights + base).argmax(1)
    return said


def h_score(rows: np.ndarray, labels: np.ndarray) -> float:
    """The trace of the classes' covariance measured in the rows' own, which is shrunk towards a sphere (Bao et al. 2019; Ledoit & Wolf 2004)."""
    from sklearn.covariance import ledoit_wolf

    even = rows - rows.mean(0)
    covariance, shrinkage = ledoit_wolf(even, assume_centered=True)
    means = np.stack([even[labels == label].mean(0) for label in range(labels.max() + 1)])
    between = (1 - shrinkage) * (means.T * (np.bincount(labels) / len(labels))) @ means
    return float(np.trace(np.linalg.solve(covariance, between)))


def depth(found: Sequence[Floor], rows: int) -> Depth:
    """How many blocks to keep frozen: one below the lowest floor that tells the classes as well as any, and no more than so few rows allow.

    Args:
        found: every floor.
        rows: that will be trained on.
    """
    best = max(found, key=lambda floor: floor.probe)
    enough = next(floor for floor in found if floor.probe >= best.probe - best.error)
    count = found[-1].blocks
    cap = int(count * next(share for limit, share in CAPS if rows < limit))
    chosen = min(max(enough.blocks - 1, 0), cap)
    why = f"behind {enough.blocks} of {count} blocks a probe is right in {enough.probe:.1%} of rows, as good as anywhere ({best.probe:.1%} behind {best.blocks}); the block below may still move"
    if chosen < enough.blocks - 1:
        why += f"; with {rows:,} training rows no more than {cap} stay frozen"
    others = tuple(sorted({max(chosen - 1, 0), min(chosen + 1, count - 1), 0} - {chosen}, reverse=True))
    return Depth(chosen, others, why)


def chances(right: Sequence[np.ndarray]) -> list[float]:
    """The chance of each base to be the best one, from resampled rows.

    Args:
        right: for each base, for each row whether its best floor's probe was right; the same rows for all.
    """
    table = np.stack(right).astype(np.float64)  # (bases, rows)
    rows = np.random.Generator(np.random.Philox(0)).integers(0, table.shape[1], (DRAWS, table.shape[1]))
    means = table[:, rows].mean(2)
    best = means == means.max(0)
    return (best / best.sum(0)).mean(1).tolist()
