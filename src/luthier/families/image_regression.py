"""Image regression: a number an image: an age, an angle, a count, a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.pictures import as_data
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.families.image_family import find_image, pixels_are_served
from luthier.families.image_head_family import ImageHeadFamily, name_images, shrink_pictures
from luthier.families.number_family import OUTPUT, PROBLEM, NumberFamily, mean_of_training, number_baseline, starts_near_the_mean
from luthier.objectives.image_regression import ImageRegression as Numbers

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline, BaselineContext, FeatureFunction
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.vision import ImageNetwork

SHOWN = 8
"""Test rows that the report shows as pictures."""


class ImageRegression(ImageHeadFamily, NumberFamily):
    """See the module."""

    name = "image_regression"
    kind = RowKind("image", "number")
    specificity = 4
    Spec = Numbers
    learns_classes = "image_classification"
    reads_untouched = True

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Rows that name images, which the reader has looked at, and a column of amounts."""
        if not name_images(rows):
            if asked.task != self.name:
                return None
            raise DataError(f"{path}: {self.name} learns from images, and no column of {', '.join(rows.columns)} names image files",
                            "give a table with a column of their file names, from its own folder on; for texts: --task regression")  # fmt: skip
        if asked.target in KEPT:
            raise DataError(f"{path}: {asked.target!r} is what is noted of each image itself, not a column of the table",
                            "name a column of numbers")  # fmt: skip
        column = asked.input or (find_image(rows),)
        own = replace(rows, columns=[name for name in rows.columns if name not in KEPT])
        found = self.find_target(own, path, asked, column)
        return found and Columns(self.name, column, found[0], f"{column[0]!r} names images; {found[1]}")

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> ImageNetwork:
        """The network with one output."""
        return self.with_outputs(OUTPUT, spec, model, base, seed, PROBLEM)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; a new head knows nothing."""
        return (pixels_are_served,), (starts_near_the_mean,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean of the training rows, ridge regression on small pictures, and on what the untouched base makes of the images."""
        results = [mean_of_training(train, validation)]
        context.poll()
        results.append(ridge("small pictures + ridge regression", shrink_pictures, train, validation, context))
        if context.untouched is not None:
            name, features = context.untouched
            results.append(ridge(f"{name}, frozen + ridge regression", features, train, validation, context))
        return results

    def pictures(self, model: Any, objective: Any, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """The test images whose numbers are farthest off."""
        apart = scores.more["predicted"] - scores.more["actual"]
        rows = []
        for position in np.argsort(-np.abs(apart), kind="stable")[:SHOWN].tolist():
            example = examples[position]
            said = f"{self.predicted_text(scores, position)} was said, {self.target_text(example)} is true"
            caption = f"{example.record.values[objective.input[0]]}: {said} ({apart[position]:+.3g})"
            rows.append({"caption": caption, "images": [as_data("as the network reads it", example.inputs["pixels"])]})
        return {
            "title": "The test images that are farthest off",
            "about": "As the network reads them, the largest error first.",
            "rows": rows,
        }


def ridge(
    name: str, features: FeatureFunction, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext
) -> Baseline:
    """Ridge regression on features of equal spread; the validation rows choose its strength.

    Args:
        name: of the baseline.
        features: rows → # (examples, features)
        train: rows to fit on.
        validation: rows that choose.
        context: is polled between fits.
    """
    from luthier.evaluation.linear_heads import fit_number

    target, expected = (np.array([[example.target] for example in rows]) for rows in (train, validation))
    weight, bias = fit_number(features(train), target, features(validation), expected, context.poll)
    return number_baseline(name, lambda examples: (features(examples) @ weight.T + bias)[:, 0], train, validation)


FAMILY = ImageRegression()
