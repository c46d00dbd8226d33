"""Changed views of a text, new in each step: a pure function of seed, step and row."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.randomness import mix
from luthier.data.image_views import ImageViews


class Augment(Component):
    """Rows that are changed before they are learned from; held-out rows never are.

    Source: Wei & Zou 2019, "EDA" (deletion and swap of words); Karpukhin et al. 2019 (character noise); span deletion as in Shen et al. 2020, "Cutoff".
    """

    share: float = Field(
        default=0.0, ge=0, le=1, description="Share of a step's rows that are changed; 0 leaves all as they are. Classification only."
    )
    drop: float = Field(default=0.1, ge=0, lt=1, description="Share of a changed row's words that are left out.")
    swap: float = Field(default=0.0, ge=0, le=1, description="Share of its words that change places with the next.")
    span: float = Field(default=0.0, ge=0, lt=1, description="Share of its words that are left out in one piece.")
    typos: float = Field(
        default=0.0, ge=0, le=1, description="Share of its words in which two letters change places, or one is doubled or lost."
    )
    case: float = Field(default=0.0, ge=0, le=1, description="Share of its words whose case is turned round.")

    images: ImageViews = Field(default_factory=lambda: ImageViews())

    def changes(self, seed: int, step: int, row: int) -> bool:
        """Whether a row is changed in this step."""
        return bool(_draw(seed, step, row, "share", 1)[0] < self.share)

    def view(self, text: str, seed: int, step: int, row: int) -> str:
        """The text as it is learned from in this step; it keeps at least one word.

        Args:
            text: as read.
            seed: of the experiment.
            step: counted from 0.
            row: the example's number.
        """
        words = text.split()
        if len(words) < 2:
            return text
        gone = int(self.span * len(words))
        if gone:
            start = int(_draw(seed, step, row, "span", 1)[0] * (len(words) - gone + 1))
            words = words[:start] + words[start + gone :]
        remaining = [word for word, draw in zip(words, _draw(seed, step, row, "drop", len(words)), strict=True) if draw >= self.drop]
        words = remaining or words[:1]
        for index, draw in enumerate(_draw(seed, step, row, "swap", len(words))[:-1]):
            if draw < self.swap:
                words[index], words[index + 1] = words[index + 1], words[index]
        which, where = _draw(seed, step, row, "typos", len(words)), _draw(seed, step, row, "where", len(words))
        words = [_mistype(word, float(at)) if draw < self.typos else word for word, draw, at in zip(words, which, where, strict=True)]
        cases = _draw(seed, step, row, "case", len(words))
        return " ".join(word.swapcase() if draw < self.case else word for word, draw in zip(words, cases, strict=True))


def _draw(seed: int, step: int, row: int, what: str, count: int) -> np.ndarray:
    """Numbers in [0, 1), the same for the same question."""
    return mix(seed, "augment", step, row, what, np.arange(count)) / 2.0**64


def _mistype(word: str, at: float) -> str:
    """One slip, as a hurried hand makes it."""
    if len(word) < 3:
        return word
    index, kind = divmod(int(at * 3 * (len(word) - 1)), 3)
    if kind == 0:
        return word[:index] + word[index + 1] + word[index] + word[index + 2 :]
    return word[:index] + (word[index] * 2 if kind == 1 else "") + word[index + 1 :]
