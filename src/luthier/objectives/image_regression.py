"""Image regression: a number for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from luthier.core.types import Example
from luthier.objectives.image_rows import ImageRows
from luthier.objectives.regression import Mean, RegressionObjective, Spread
from luthier.objectives.squares import SquaresSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageRegression(SquaresSpec):
    """Learn a number that stands beside an image."""

    kind: Literal["image_regression"] = "image_regression"
    mean: Mean = None
    spread: Spread = None

    def open(self, processor: Any, input: tuple[str, ...], target: str) -> ImageRegressionObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column that is learned.
        """
        return ImageRegressionObjective(cast(Any, self), processor, input, target)


class ImageRegressionObjective(ImageRows, RegressionObjective):
    """See `ImageRegression`; targets, loss and scores are those of any regression."""

    def reference_loss(self, model: nn.Module, example: Example) -> torch.Tensor | None:
        """The squared error, in standard deviations, of what transformers' own forward pass gives."""
        return (self.plain_outputs(model, example)[0, 0] - (example.target - self.mean) / self.spread).square()
