"""What an autoencoder has to beat: the mean picture, PCA, and how flat a picture is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores
from luthier.objectives.autoencoder import FLAT, Score, scores_of_images

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

MOST = 5_000
"""Training images that PCA is fitted on, evenly spread over them."""
TOGETHER = 1_024
"""Images in memory as numbers at the same time."""

Draw = Callable[[np.ndarray], np.ndarray]
"""Images from -1 to 1 → what a model draws of them, # (examples, numbers) → (examples, numbers)"""


def pixels_of(examples: Sequence[Example]) -> np.ndarray:
    """The images from -1 to 1, # (examples, numbers)"""
    return np.stack([example.inputs["pixels"].ravel() for example in examples]).astype(np.float64) / 127.5 - 1


def score_with(draw: Draw, how: Score) -> Callable[[Sequence[Example]], Scores]:
    """Examples → the scores of what a model draws of them."""

    def score(examples: Sequence[Example]) -> Scores:
        parts = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            pixels = pixels_of(some)
            squared = ((pixels - draw(pixels)) ** 2).sum(1)
            parts.append(scores_of_images(squared, np.zeros(len(some)), pixels, known_kinds(some), how))
        return joined(parts)

    return score


def known_kinds(examples: Sequence[Example]) -> np.ndarray:
    """1 for each abnormal row, 0 for each normal one, -1 where nobody knows, # (examples,)"""
    return np.array([example.facts["abnormal"] for example in examples])


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive rows as one."""
    more = {name: np.concatenate([part.more[name] for part in parts]) for name in parts[0].more}
    return Scores(np.concatenate([part.loss for part in parts]), np.concatenate([part.count for part in parts]), more=more)


def mean_picture(train: Sequence[Example], validation: Sequence[Example], how: Score) -> Baseline:
    """Always the mean of the training images."""
    total = np.zeros(train[0].inputs["pixels"].size)
    for example in train:
        total += example.inputs["pixels"].ravel() / 127.5 - 1
    mean = total / len(train)
    return _baseline("the mean image", score_with(lambda pixels: mean[None], how), validation)


def component_baseline(train: Sequence[Example], validation: Sequence[Example], components: int, how: Score) -> Baseline:
    """PCA: each image as its nearest point in the plane of so many principal components.

    Args:
        train: images to fit on; of more than `MOST` a part.
        validation: the validation rows.
        components: of the plane; fewer where there are fewer images.
        how: what makes an image unusual.
    """
    from sklearn.decomposition import PCA

    from luthier.evaluation.baselines import share_of_rows

    some = [train[place] for place in np.unique(np.linspace(0, len(train) - 1, min(MOST, len(train))).astype(int))]
    pixels = pixels_of(some)
    fitted: Any = PCA(n_components=min(components, len(some) - 1, pixels.shape[1]), random_state=0).fit(pixels)
    name = f"PCA with {fitted.n_components_} components{share_of_rows(len(some), len(train))}"
    return _baseline(name, score_with(lambda pixels: fitted.inverse_transform(fitted.transform(pixels)), how), validation)


def flat_pictures(validation: Sequence[Example]) -> Baseline:
    """Each image as its own mean grey, and the flatter the more unusual: what a relative error finds where the error itself says nothing."""

    def score(examples: Sequence[Example]) -> Scores:
        parts = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            pixels = pixels_of(some)
            variance = pixels.var(1)
            found = scores_of_images(variance * pixels.shape[1], np.zeros(len(some)), pixels, known_kinds(some), "error")
            parts.append(Scores(found.loss, found.count, more={**found.more, "anomaly": 1 / (variance + FLAT**2)}))
        return joined(parts)

    return _baseline("low contrast alone", score, validation)


def _baseline(name: str, score: Callable[[Sequence[Example]], Scores], validation: Sequence[Example]) -> Baseline:
    from luthier.evaluation.baselines import Baseline

    return Baseline(name, score, score(validation))
