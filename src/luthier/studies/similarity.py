"""How much of a task a base already knows: linear probes on its layers, from one pass over the rows and without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.core.words import plural

NEIGHBOURS = 10
DRAWS = 2_000
FOLDS = 5
STRENGTHS = np.geomspace(1e-3, 1e3, 13)
MOST_ROWS = 2_000
"""Rows that are read."""
CAPS = ((1_000, 3 / 4), (10_000, 2 / 3), (1 << 62, 1 / 3))
"""Below so many training rows, at most this share of the blocks is kept frozen."""
PLENTY = 100
"""Training rows of the rarest class from which nothing is gained by keeping blocks frozen but time (eleven sets, docs/log/2026-11.md#how-deep-to-freeze-three-seeds)."""
FEW = 1 / 3
"""Of the blocks, that stay at least where it has fewer."""
CLOSE, FAR = 0.2, 0.5
"""Shares of what guessing leaves, that are left to be learned."""
USUAL, RATES = 0.3, (0.3, 2.0)
"""Where the usual learning rate is right, and how far another one may be from it: a hypothesis (docs/search.md#how-deep-to-freeze-and-on-which-base)."""
STRANGE, SPLIT = 0.3, 1.5
"""Bits a byte above plain English, and times its tokens a word, from which texts are strange to a base."""
PLAIN = (
    "The train was late again this morning, so I walked along the river instead and bought some bread on the way. A few people were "
    "already sitting outside the small café at the corner, reading the news or talking about the weather. My neighbour told me that "
    "the old bridge will be closed for repairs until the end of the year. Nobody seems to know how the children will get to school. "
    "In the afternoon we cleaned the kitchen, wrote two letters and made a list of everything that has to be done before winter: the "
    "roof, the windows, the garden gate. When it became dark we lit the fire and played cards until it was time to go to bed."
)
"""Plain English, to compare with."""


@dataclass(frozen=True)
class LayerProbe:
    """What can be told from the states behind a number of blocks.

    Args:
        blocks: below it; 0 is the embeddings.
        neighbours: accuracy of the ten nearest neighbours, each row left out in turn.
        probe: accuracy of ridge regression on the classes, out of fold.
        error: standard error of the probe's accuracy.
        h_score: how much of the variance the classes explain, shrunk (Ibrahim et al. 2021); greater is better.
        variability: of the states within the classes, in units of that between them (Xie et al. 2022); smaller is better.
        right: for each row whether the probe was right, # (rows,)
    """

    blocks: int
    neighbours: float
    probe: float
    error: float
    h_score: float
    variability: float
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


def probe_layers(states: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> list[LayerProbe]:
    """Look at every floor.

    Args:
        states: of rows, # (rows, blocks + 1, width)
        labels: the class of each row, from 0, # (rows,)
        folds: rows of each fold; near-duplicates lie in one.
    """
    return [_probe_layer(layer, states[:, layer].astype(np.float64), labels, folds) for layer in range(states.shape[1])]


def _probe_layer(layer: int, rows: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> LayerProbe:
    even = rows - rows.mean(0)
    even /= np.sqrt((even**2).mean()) + 1e-12
    right = cross_validated_class(even, labels, folds) == labels
    accuracy = float(right.mean())
    error = float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / len(labels)) / len(labels)))
    return LayerProbe(
        layer,
        float((nearest_neighbour_class(even, labels) == labels).mean()),
        accuracy,
        error,
        h_score(even, labels),
        variability(even, labels),
        right,
    )


def nearest_neighbour_class(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class that most of the ten nearest other rows have, by the cosine, # (rows,)"""
    unit = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    count = min(NEIGHBOURS, len(rows) - 1)
    near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
    votes = np.zeros((len(rows), labels.max() + 1))
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[near]), 1.0)
    return votes.argmax(1)


def cross_validated_class(rows: np.ndarray, labels: np.ndarray, folds: Sequence[Sequence[int]]) -> np.ndarray:
    """The class that ridge regression on the other folds says, # (rows,); its strength is chosen by leaving each of their rows out.

    Not by generalised cross-validation, which takes a mean for what a row says of itself: with fewer rows than columns it may choose far too small a strength (docs/log/2026-11.md#two-faults-that-typing-it-brought-to-light).

    Source: Allen 1974 (the prediction sum of squares).
    """
    predictions = np.zeros(len(rows), dtype=np.int64)
    targets = np.eye(labels.max() + 1)[labels]
    for fold in folds:
        train = np.setdiff1d(np.arange(len(rows)), fold)
        centre, base = rows[train].mean(0), targets[train].mean(0)
        even, centred = rows[train] - centre, targets[train] - base
        wide = even.shape[1] > len(train)  # either side of the rows has the same decomposition; the smaller one takes less
        size, turned = np.linalg.eigh(even @ even.T if wide else even.T @ even)
        size, rotated = np.maximum(size, 0.0), turned.T @ (centred if wide else even.T @ centred)
        turned_rows = turned if wide else even @ turned  # (train, directions)
        squares, best, chosen = turned_rows**2, np.inf, 0.0
        for strength in STRENGTHS * len(train):
            share = size / (size + strength) if wide else 1 / (size + strength)
            left = centred - turned_rows @ (share[:, None] * rotated)
            own = 1 / len(train) + squares @ share  # how much a row says of itself; the mean tells of it too
            score = float(((left / np.maximum(1 - own, 1e-9)[:, None]) ** 2).sum())
            if score < best:
                best, chosen = score, strength
        weights = turned @ (rotated / (size + chosen)[:, None])
        predictions[list(fold)] = ((rows[list(fold)] - centre) @ (even.T @ weights if wide else weights) + base).argmax(1)
    return predictions


def h_score(rows: np.ndarray, labels: np.ndarray) -> float:
    """The trace of the classes' covariance measured in the rows' own, which is shrunk towards a sphere (Bao et al. 2019; Ledoit & Wolf 2004)."""
    from sklearn.covariance import ledoit_wolf

    even = rows - rows.mean(0)
    covariance, shrinkage = ledoit_wolf(even, assume_centered=True)
    means = np.stack([even[labels == label].mean(0) for label in range(labels.max() + 1)])
    between = (1 - shrinkage) * (means.T * (np.bincount(labels) / len(labels))) @ means
    return float(np.trace(np.linalg.solve(covariance, between)))


def variability(rows: np.ndarray, labels: np.ndarray) -> float:
    """The trace of the covariance within the classes over that between them, by the number of classes.

    Source: Xie et al. 2022, "Hidden state variability of pretrained language models can guide computation reduction for transfer learning", eq. 2.
    """
    even = rows - rows.mean(0)
    means = np.stack([even[labels == label].mean(0) for label in range(labels.max() + 1)])
    shares = np.bincount(labels) / len(labels)
    inside = even - means[labels]
    # the classes' means span few directions: in those, the inverse of what lies between them is small enough to be written down
    left, size, _ = np.linalg.svd((means * np.sqrt(shares)[:, None]).T, full_matrices=False)
    nonzero = size > size[0] * 1e-9
    turned = inside @ left[:, nonzero]
    return float(((turned**2).mean(0) / size[nonzero] ** 2).sum() / len(means))


@dataclass(frozen=True)
class Nearness:
    """Whether a task is a close cousin of what a base knows, or a far turn.

    Args:
        kind: close, between or far.
        room: how much there is to learn: for classes, which part of what guessing leaves the best floor leaves too; for text, the bits a byte
            above those of plain English.
        learning_rate_factor: what the usual learning rate may be multiplied by to start from; a hypothesis that a search should test.
        reason: why.
    """

    kind: Literal["close", "between", "far"]
    room: float
    learning_rate_factor: float
    reason: str


def nearness(found: Sequence[LayerProbe], labels: np.ndarray) -> Nearness:
    """How much of the task the base leaves to be learned.

    Args:
        found: every floor.
        labels: the class of each row, from 0, # (rows,)
    """
    best = max(found, key=lambda floor: floor.probe)
    guessed = float(np.bincount(labels).max() / len(labels))
    room = (1 - best.probe) / max(1 - guessed, 1e-9)
    kind = "close" if room <= CLOSE else "far" if room > FAR else "between"
    reason = f"where guessing is wrong in {1 - guessed:.0%} of rows, a probe is in {1 - best.probe:.0%}: {min(room, 1):.0%} of it is left to learn"
    return Nearness(kind, room, float(np.clip((room / USUAL) ** 0.5, *RATES)), reason)


@dataclass(frozen=True)
class BitsPerByte:
    """How well a base foresees texts.

    Args:
        answers: bits a byte of the answers, given what stands before them.
        texts: bits a byte of whole rows, as plain text.
        plain: bits a byte of plain English, to compare.
        pieces: tokens a word of the rows.
        plain_pieces: tokens a word of plain English.
        rows: bits and bytes of each row's answers, # (rows, 2)
    """

    answers: float
    texts: float
    plain: float
    pieces: float
    plain_pieces: float
    rows: np.ndarray


def domain_shift(found: BitsPerByte) -> Nearness:
    """How far texts are from plain English for a base: by their bits a byte, or by a tokenizer that does not know their words."""
    room, split = found.texts - found.plain, found.pieces / found.plain_pieces
    kind = "far" if room > STRANGE or split > SPLIT else "close" if room < STRANGE / 3 and split < 1.2 else "between"
    reason = f"its rows take {found.texts:.2f} bits a byte and {found.pieces:.1f} tokens a word, plain English {found.plain:.2f} and {found.plain_pieces:.1f}"
    return Nearness(kind, room, 1.0, reason)


def depth_for(near: Nearness, count: int) -> Depth:
    """How many blocks of a generator may stay frozen; where its input is strange, the lowest must move too."""
    chosen = {"close": count // 2, "between": count // 3, "far": 0}[near.kind]
    others = tuple(sorted({0, count // 3, count // 2, 2 * count // 3} - {chosen}, reverse=True))
    return Depth(chosen, others, f"{near.kind}: {near.reason}")


def depth(found: Sequence[LayerProbe], rows: int, rarest: int, least: int = 0) -> Depth:
    """How many blocks to keep frozen: none where each class has rows enough for all to move; else one below the lowest floor that tells the classes as well as any.

    Not fewer than a third of them then, and no more than so few rows allow.

    Args:
        found: every floor.
        rows: that will be trained on.
        rarest: how many of them the rarest class has.
        least: blocks that stay by default, because this kind of base does better so.
    """
    best = max(found, key=lambda floor: floor.probe)
    enough = next(floor for floor in found if floor.probe >= best.probe - best.error)
    count = found[-1].blocks
    cap = int(count * next(share for limit, share in CAPS if rows < limit))
    chosen = max(min(max(enough.blocks - 1, int(count * FEW)), cap), least)
    why = f"behind {enough.blocks} of {count} blocks a probe is right in {enough.probe:.1%} of rows, as good as anywhere ({best.probe:.1%} behind {best.blocks})"
    if rarest >= PLENTY and not least:
        others = tuple(sorted({chosen, max(chosen - 1, 1)} & set(range(1, count)), reverse=True))
        return Depth(0, others, f"the rarest class has {plural(rarest, 'row')}: freezing gains time, not accuracy; {why}")
    why = f"the default keeps {least}; {why}" if least else f"the rarest class has only {plural(rarest, 'row')}; {why}"
    if chosen == cap < enough.blocks - 1:
        why += f"; with {rows:,} training rows no more than {cap} stay frozen"
    others = tuple(sorted({max(chosen - 1, 0), min(chosen + 1, count - 1), 0} - {chosen}, reverse=True))
    return Depth(chosen, others, why)


def best_base_probability(right: Sequence[np.ndarray]) -> list[float]:
    """The chance of each base to be the best one, from resampled rows.

    Args:
        right: for each base, for each row whether its best floor's probe was right; the same rows for all.
    """
    return best_generator_probability([np.stack([~row.astype(bool), np.ones(len(row))], 1) for row in right])


def best_generator_probability(rows: Sequence[np.ndarray]) -> list[float]:
    """The chance of each base to foresee answers best, from resampled rows.

    Args:
        rows: for each base, the bits and bytes of each row's answers, # (rows, 2); the same rows for all.
    """
    table = np.stack(rows)  # (bases, rows, 2)
    picks = np.random.Generator(np.random.Philox(0)).integers(0, table.shape[1], (DRAWS, table.shape[1]))
    sums = np.stack([base[picks].sum(1) for base in table])  # (bases, draws, 2)
    means = sums[..., 0] / sums[..., 1]
    best = means == means.min(0)
    return (best / best.sum(0)).mean(1).tolist()
