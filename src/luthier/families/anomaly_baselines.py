"""What an autoencoder has to beat: the mean row, PCA, the nearest training row, and how flat a picture is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores
from luthier.objectives.anomaly import FLAT, Score, scores_of_rows

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

MOST = 5_000
"""Training rows that PCA is fitted on, evenly spread over them."""
MOST_NEIGHBOURS = 50_000
"""Training rows among which the nearest one is looked for."""
SMALL = 64
"""Pixels on a side of an image whose pixels stand beside what a base sees of it."""
TOGETHER = 1_024
"""Rows in memory as numbers at the same time."""

Reconstruct = Callable[[np.ndarray], np.ndarray]
"""Rows as numbers → a model's reconstructions, # (examples, numbers) → (examples, numbers)"""
Numbers = Callable[[Sequence[Example]], np.ndarray]
"""Examples → what is to be reconstructed of them, # (examples, numbers)"""


def pixels_of(examples: Sequence[Example]) -> np.ndarray:
    """The images from -1 to 1, # (examples, numbers)"""
    return np.stack([example.inputs["pixels"].ravel() for example in examples]).astype(np.float64) / 127.5 - 1


def small_greys(examples: Sequence[Example]) -> np.ndarray:
    """The images in grey from -1 to 1, of at most `SMALL` pixels on a side: PCA of many images has a place in memory, # (examples, numbers)"""
    pictures = []
    for example in examples:
        pixels = example.inputs["pixels"].astype(np.float64).mean(2) / 127.5 - 1
        edges = np.unique(np.linspace(0, len(pixels), min(SMALL, len(pixels)) + 1).astype(int))[:-1]
        sizes = np.diff(np.append(edges, len(pixels)))
        sums = np.add.reduceat(np.add.reduceat(pixels, edges, axis=0), edges, axis=1)
        pictures.append((sums / (sizes[:, None] * sizes[None, :])).ravel())
    return np.stack(pictures)


def score_with(reconstruct: Reconstruct, how: Score, numbers: Numbers = pixels_of) -> Callable[[Sequence[Example]], Scores]:
    """Examples → the scores of a model's reconstructions."""

    def score(examples: Sequence[Example]) -> Scores:
        parts = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            values = numbers(some)
            squared = ((values - reconstruct(values)) ** 2).sum(1)
            parts.append(scores_of_rows(squared, np.zeros(len(some)), values, known_kinds(some), how))
        return join_scores(parts)

    return score


def known_kinds(examples: Sequence[Example]) -> np.ndarray:
    """1 for each abnormal row, 0 for each normal one, -1 where nobody knows, # (examples,)"""
    return np.array([example.facts["abnormal"] for example in examples])


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive rows as one."""
    more = {name: np.concatenate([part.more[name] for part in parts]) for name in parts[0].more}
    return Scores(np.concatenate([part.loss for part in parts]), np.concatenate([part.count for part in parts]), more=more)


def mean_baseline(
    train: Sequence[Example], validation: Sequence[Example], how: Score, numbers: Numbers = pixels_of, what: str = "image"
) -> Baseline:
    """Always the mean of the training rows.

    Args:
        train: rows to fit on.
        validation: the validation rows.
        how: what makes a row unusual.
        numbers: of rows.
        what: a row is reconstructed as, for a person.
    """
    parts = (numbers(train[start : start + TOGETHER]).sum(0) for start in range(0, len(train), TOGETHER))
    mean = np.sum(list(parts), 0) / len(train)
    return _baseline(f"the mean {what}", score_with(lambda rows: mean[None], how, numbers), validation)


def component_baseline(
    train: Sequence[Example], validation: Sequence[Example], components: int, how: Score, numbers: Numbers = pixels_of, of: str = ""
) -> Baseline:
    """PCA: each row as its nearest point in the plane of so many principal components.

    Args:
        train: rows to fit on; of more than `MOST` a part.
        validation: the validation rows.
        components: of the plane; fewer where there are fewer rows.
        how: what makes a row unusual.
        numbers: of rows.
        of: what the components are of, for a person, where there are several kinds.
    """
    from sklearn.decomposition import PCA

    from luthier.evaluation.baselines import share_of_rows

    some = spread_evenly(train, MOST)
    training = numbers(some)
    fitted: Any = PCA(n_components=min(components, len(some) - 1, training.shape[1]), random_state=0).fit(training)
    name = f"PCA with {fitted.n_components_} components{of}{share_of_rows(len(some), len(train))}"
    return _baseline(name, score_with(lambda rows: fitted.inverse_transform(fitted.transform(rows)), how, numbers), validation)


def nearest_baseline(
    train: Sequence[Example], validation: Sequence[Example], how: Score, numbers: Numbers = pixels_of, what: str = "image"
) -> Baseline:
    """Each row as the training row that is nearest to it.

    Source: Ramaswamy, Rastogi & Shim 2000, "Efficient algorithms for mining outliers from large data sets" (the distance to a neighbour as the score).

    Args:
        train: rows to be compared with; of more than `MOST_NEIGHBOURS` a part.
        validation: the validation rows.
        how: what makes a row unusual.
        numbers: of rows.
        what: a row is, for a person.
    """
    from luthier.evaluation.baselines import share_of_rows

    some = spread_evenly(train, MOST_NEIGHBOURS)
    training = numbers(some).astype(np.float32)
    lengths = (training**2).sum(1)

    def reconstruct(rows: np.ndarray) -> np.ndarray:
        return training[(lengths[None] - 2 * rows.astype(np.float32) @ training.T).argmin(1)]

    name = f"the nearest training {what}{share_of_rows(len(some), len(train))}"
    return _baseline(name, score_with(reconstruct, how, numbers), validation)


def spread_evenly(rows: Sequence[Example], most: int) -> list[Example]:
    """At most so many rows, evenly over all."""
    return [rows[index] for index in np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def flat_pictures(validation: Sequence[Example]) -> Baseline:
    """Each image as its own mean grey, and the flatter the more unusual: what a relative error finds where the error itself says nothing."""

    def score(examples: Sequence[Example]) -> Scores:
        parts = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            pixels = pixels_of(some)
            variance = pixels.var(1)
            result = scores_of_rows(variance * pixels.shape[1], np.zeros(len(some)), pixels, known_kinds(some), "error")
            parts.append(Scores(result.loss, result.count, more={**result.more, "anomaly": 1 / (variance + FLAT**2)}))
        return join_scores(parts)

    return _baseline("low contrast alone", score, validation)


def _baseline(name: str, score: Callable[[Sequence[Example]], Scores], validation: Sequence[Example]) -> Baseline:
    from luthier.evaluation.baselines import Baseline

    return Baseline(name, score, score(validation))
