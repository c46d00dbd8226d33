"""Regression: a number for a text, or for two texts read together: a rating, a price, a similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.proof import ProofFunction
from luthier.core.types import Example
from luthier.data.infer import find_pair, find_text
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.families import token_proofs
from luthier.families.number_family import (
    OUTPUT,
    PROBLEM,
    NumberFamily,
    is_numeric,
    mean_of_training,
    number_baseline,
    starts_near_the_mean,
)
from luthier.families.text_family import TextFamily
from luthier.objectives.regression import Regression

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.evaluation.outputs import Outputs
    from luthier.families.head_start import HeadFit
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

STRENGTHS = (0.1, 1.0, 10.0)
"""Of ridge regression; the validation rows choose."""


class TextRegression(TextFamily, NumberFamily):
    """See the module."""

    name = "regression"
    kind = RowKind("text", "number")
    specificity = 1
    Spec = Regression
    learns_classes = "classification"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A column of amounts, and a text."""
        pair = () if asked.input else find_pair(rows, asked.target)
        found = self.find_target(rows, path, asked, asked.input or pair)
        if found is None:
            return None
        target, why = found
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why = f"{why}; {reason}"
        if asked.task != self.name and all(is_numeric(rows, name) for name in input):
            return None
        return Columns(self.name, input, target, why)

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Classifier:
        """The base with a head of one output."""
        return self.with_outputs(OUTPUT, spec, model, base, seed, PROBLEM)

    def head_fit(self) -> HeadFit:
        """Ridge regression."""
        from luthier.evaluation.linear_heads import fit_number
        from luthier.families.head_start import fit_targets

        return fit_targets(fit_number)

    def outputs(self) -> Outputs:
        """A number."""
        from luthier.evaluation.outputs import Number

        return Number()

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; a new head knows nothing."""
        return token_proofs.READ, (starts_near_the_mean,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean of the training rows, and ridge regression on TF-IDF."""
        constant = mean_of_training(train, validation)
        context.poll()
        return [constant, ridge_on_words(train, validation, context.columns, context.most_rows)]

    # use

    def without_luthier(self) -> str:
        """A pipeline of transformers; its number is in standard deviations above the mean, which stand in luthier.json."""
        return 'from transformers import pipeline; pipeline("text-classification", "PATH", function_to_apply="none")("your text")  # score × spread + mean, of luthier.json'


def ridge_on_words(train: Sequence[Example], validation: Sequence[Example], columns: Sequence[str], most_rows: int = 1 << 40) -> Baseline:
    """Ridge regression on TF-IDF of words and word pairs; the validation rows choose its strength.

    Args:
        train: rows to fit on; of more than `most_rows` a part.
        validation: rows that choose.
        columns: that are read.
        most_rows: training rows to fit on at most.
    """
    import numpy as np
    from sklearn.linear_model import Ridge

    from luthier.evaluation.baselines import share_of_rows, tf_idf

    every, train = len(train), train[:: -(-len(train) // most_rows)]
    features = tf_idf(train, columns)
    seen, held = features(train), features(validation)
    target, expected = (np.array([example.target for example in rows]) for rows in (train, validation))
    fitted = [Ridge(alpha=strength).fit(seen, target) for strength in STRENGTHS]
    best = min(fitted, key=lambda model: float(np.square(model.predict(held) - expected).sum()))
    return number_baseline(
        f"TF-IDF + ridge regression{share_of_rows(len(train), every)}", lambda examples: best.predict(features(examples)), train, validation
    )


FAMILY = TextRegression()
