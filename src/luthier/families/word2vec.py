"""Word2Vec: vectors of words from texts without labels; words that stand in like company get like vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.core.proof import ProofFunction
from luthier.core.types import Example
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.vector_family import VectorFamily, estimate_words
from luthier.families.word2vec_proofs import PROOFS
from luthier.objectives.word2vec import Word2Vec
from luthier.objectives.word_pieces import LONGEST

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base

EPOCHS = (
    (300_000, 15, "few words: more passes (docs/word-vectors.md)"),
    (3_000_000, 10, "some million words"),
    (30_000_000, 5, "as word2vec and gensim"),
    (1 << 62, 3, "much text"),
)
"""Below this many training words, epochs, and why."""
RATES = (
    (300_000, 0.1, "AdaGrad: a whole novel; 0.2 learned it by heart (docs/word-vectors.md)"),
    (1 << 62, 0.2, "AdaGrad: of 0.05, 0.1, 0.2 and 0.3 the lowest held-out loss on ten novels (docs/word-vectors.md)"),
)
"""Below this many training words, the learning rate, and where it comes from."""
STEP_WORDS = (8_192, 4_096, 2_048)
"""Words of a step, the most first."""
STEPS = 500
"""That a run should have."""
SMALL = 20_000
"""Words below which a word may be rarer."""


class Word2VecFamily(VectorFamily):
    """See the module."""

    name = "word2vec"
    Spec = Word2Vec

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By the number of words."""
        words, _ = estimate_words(dataset)
        epochs, why = row_for(EPOCHS, words)
        least = Choice(
            "objective.least_count",
            2 if words < SMALL else 5,
            "few words" if words < SMALL else "as word2vec and gensim: rarer words learn little",
        )
        return [
            Choice("adaptation.kind", "full", "all vectors move"),
            Choice(
                "optimizer.kind",
                "adagrad",
                "a word's own learning rate: rare words move far, frequent ones settle; only rows that were read move",
            ),
            Choice("optimizer.lr", *row_for(RATES, words)),
            Choice("optimizer.clip", 0.0, "AdaGrad does not depend on the size of gradients"),
            Choice("optimizer.weight_decay", 0.0, "only rows that were read move"),
            Choice("schedule.kind", "linear", "as word2vec: straight to zero"),
            Choice("schedule.warmup", 0.0, "vectors begin at zero: there is nothing to lose"),
            Choice("model.dropout", 0.0, "there is nothing to drop"),
            Choice("training.dtype", "float32", "a vector moves by less than bfloat16 can tell"),
            Choice("training.epochs", epochs, why),
            Choice("training.evaluations_per_epoch", 1.0, "an evaluation costs a tenth of an epoch"),
            self.batch_size(dataset, epochs),
            least,
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """That of a few hundred thousand words, which is never too high."""
        return RATES[0][1:]

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """Rows, or pieces of long rows, of a step: the most words that leave a run as many steps as it should have."""
        words, a_row = estimate_words(dataset)
        step = next((step for step in STEP_WORDS if words * epochs >= step * STEPS), STEP_WORDS[-1])
        rows = max(1, round(step / max(min(a_row, LONGEST), 1)))
        return Choice(
            "training.batch_size",
            rows,
            f"about {step:,} words a step: large steps are products of matrices, and {STEPS} steps a run should have",
        )

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """There are no blocks to freeze."""
        return ("full",)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """Pairs are those inside windows, negatives are drawn, and the loss is what it must be where nothing is known."""
        return PROOFS

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """How frequent words are, and a matrix of counts that is factorised."""
        from luthier.families.vector_baselines import fit_factorised_counts, frequencies

        return [fit_factorised_counts(train, validation, context), frequencies(train, validation, context)]


FAMILY = Word2VecFamily()
