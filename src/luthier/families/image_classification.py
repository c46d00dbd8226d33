"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.data.infer import count_values, find_label
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.families.class_family import ClassFamily, starts_where_it_must
from luthier.families.image_family import find_image, pixels_are_served
from luthier.families.image_head_family import ImageHeadFamily, name_images, shrink_pictures
from luthier.families.number_family import columns_of_amounts, say_numbers
from luthier.objectives.image_classification import ImageClassification as Images

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.vision import ImageNetwork

SPREADS = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0))
"""What the nearest class mean tries: by how much of a picture's whole variance two pictures of a class may differ."""


class ImageClassification(ImageHeadFamily, ClassFamily):
    """See the module."""

    name = "image_classification"
    kind = RowKind("image", "class")
    specificity = 3
    Spec = Images
    gives = "classes"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Rows that name images, which the reader has looked at, and a label."""
        if not name_images(rows):
            return None
        column = asked.input or (find_image(rows),)
        target = asked.target or find_class(rows, path, column)
        return Columns(self.name, column, target, f"{column[0]!r} names images; {count_values(rows, target)}")

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> ImageNetwork:
        """The network with an output a class."""
        return self.with_outputs(spec.labels, spec, model, base, seed)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; a new head knows nothing."""
        return (pixels_are_served,), (starts_where_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The most frequent class, and the nearest class mean of small pictures."""
        from luthier.evaluation import baselines

        frequent = baselines.majority_baseline(train, validation, context.classes)
        context.poll()
        return [frequent, nearest_mean(train, validation, context.classes)]

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """As of any classes; of two also sensitivity and specificity."""
        from luthier.evaluation.two_classes import describe_two_classes

        result = super().details(scores, spec)
        return {**result, "tables": [describe_two_classes(scores, spec.labels)]} if len(spec.labels) == 2 else result


def find_class(rows: Rows, path: str, read: tuple[str, ...]) -> str:
    """The column that looks like a class, of those that are not read and that the reader did not note.

    Args:
        rows: of the table.
        path: for the message.
        read: columns that are read.

    Raises:
        DataError: none does; where there are numbers, the message says how they are learned.
    """
    others = Rows(columns=[name for name in rows.columns if name not in (*read, *KEPT)], values=rows.values)
    try:
        return find_label(others, path, read)
    except DataError as problem:
        numbers = columns_of_amounts(others, read)
        if not numbers:
            raise
        remedy = (
            f"{say_numbers(numbers)}, which are learned with --task image_regression --target {numbers[0]}; for classes: {problem.remedy}"
        )
        raise DataError(problem.message, remedy) from None


def nearest_mean(train: Sequence[Example], validation: Sequence[Example], classes: int) -> Baseline:
    """The class whose mean picture is nearest; how sure that makes is chosen on the validation rows.

    Args:
        train: rows whose means are taken.
        validation: rows that choose how sure.
        classes: how many there are.
    """
    from luthier.evaluation.baselines import Baseline, scores_of

    pictures, target = shrink_pictures(train), np.array([example.target for example in train])
    counts = np.bincount(target, minlength=classes)
    means = np.stack(
        [pictures[target == number].mean(0) if counts[number] else np.full(pictures.shape[1], np.inf) for number in range(classes)]
    )
    whole = max(float(pictures.var(0).sum()), 1e-12)
    prior = np.log((counts + 1) / (len(train) + classes))

    def scorer(spread: float) -> Callable[[Sequence[Example]], Scores]:
        def score(examples: Sequence[Example]) -> Scores:
            pictured = shrink_pictures(examples)
            apart = np.stack([((pictured - mean) ** 2).sum(1) for mean in means], axis=1)
            logits = prior - np.minimum(apart / (2 * spread * whole), 1e6)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            return scores_of(shares / shares.sum(1, keepdims=True), examples)

        return score

    tried = {spread: scorer(spread)(validation) for spread in SPREADS}
    best = min(tried, key=lambda spread: float(tried[spread].loss.mean()))
    return Baseline("nearest class mean of small pictures", scorer(best), tried[best])


FAMILY = ImageClassification()
