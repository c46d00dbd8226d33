"""Parity of tables of words."""

from __future__ import annotations

import numpy as np

from luthier.delivery.exports.exporter import LOG_PROBABILITIES, METRIC, RENDERED, TEXT, TOKENS, WordTable
from luthier.delivery.parity.metric import Measured
from luthier.delivery.parity.network_parity import first_difference
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.tolerances import Tolerance
from luthier.delivery.parity.trainer import Trainer
from luthier.evaluation.words import Words

ASKED, NEAREST = 100, 10
"""Words that are asked for, and how many of their neighbours are compared."""


class WordParity:
    """The stages of word vectors.

    Args:
        trainer: opened.
        runtime: of the export.
        tolerance: what writing numbers down explains.
    """

    def __init__(self, trainer: Trainer, runtime: WordTable, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.ours = list(trainer.tokenizer.words), trainer.model.vectors().cpu().numpy().astype(np.float64)
        self.theirs = list(runtime.words()), np.asarray(runtime.vectors(), dtype=np.float64)

    def rendered_text(self) -> StageResult:
        """A word is its own text."""
        return StageResult(RENDERED, "same", detail="a word is its own text")

    def tokens(self) -> StageResult:
        """The words and their order."""
        ours, theirs = self.ours[0], self.theirs[0]
        if ours == theirs:
            return StageResult(TOKENS, "same", len(ours), detail="words, in their order")
        index = first_difference(ours, theirs)
        words = [repr(side[index]) if index < len(side) else "nothing" for side in (ours, theirs)]
        evidence = {"lowercase": [word.lower() for word in ours] == theirs}
        return StageResult(
            TOKENS, "parts", len(ours), detail=f"word {index + 1}: the trainer has {words[0]}, the export {words[1]}", evidence=evidence
        )

    def numbers(self) -> StageResult:
        """Each number of each vector, against the largest of all."""
        ours, theirs = self.ours[1], self.theirs[1]
        apart = float(np.abs(ours - theirs).max() / np.abs(ours).max()) if ours.shape == theirs.shape else float("inf")
        state = "parts" if apart > self.tolerance.probability else "same"
        return StageResult(LOG_PROBABILITIES, state, len(ours), apart, self.tolerance.probability, "of the largest number of a vector")

    def text(self) -> StageResult:
        """The nearest words of some words."""
        share, rows = self._share()
        return StageResult(
            TEXT, "same" if share == 1.0 else "parts", rows, detail=f"{share:.1%} of the {NEAREST} nearest words of each are the same"
        )

    def metric(self, decided: str | None) -> Measured:
        """There is none beside the words that are near."""
        return StageResult(METRIC, "unseen", detail="word vectors are judged by the words that are near, see above"), {}

    def _share(self) -> tuple[float, int]:
        if self.ours[1].shape != self.theirs[1].shape:
            return 0.0, 0
        tables = [Words.of(*side) for side in (self.ours, self.theirs)]
        rows = np.unique(np.linspace(0, len(self.ours[0]) - 1, ASKED).astype(int))
        same = total = 0
        for row in rows:
            near = [{word for word, _ in table.nearest(table.vectors[row], NEAREST, [int(row)])} for table in tables]
            same, total = same + len(near[0] & near[1]), total + len(near[0])
        return same / max(total, 1), len(rows)
