"""Image classification: one class an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from luthier.core.types import Example
from luthier.objectives.classification import ClassificationObjective
from luthier.objectives.image_rows import ImageRows
from luthier.objectives.squares import SquaresSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageClassification(SquaresSpec):
    """Learn the class of an image."""

    kind: Literal["image_classification"] = "image_classification"
    labels: tuple[str, ...] = Field(default=(), description="The classes, in order; taken from the training rows when empty.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a class counts by the inverse of its share, as scikit-learn's."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread evenly over all classes.")

    def open(self, processor: Any, input: tuple[str, ...], target: str) -> ImageClassificationObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column that is learned.
        """
        return ImageClassificationObjective(cast(Any, self), processor, input, target)


class ImageClassificationObjective(ImageRows, ClassificationObjective):
    """See `ImageClassification`; loss, weights and scores are those of any classifier."""

    def reference_loss(self, model: nn.Module, example: Example) -> torch.Tensor | None:
        """The cross-entropy of what transformers' own forward pass gives."""
        import torch

        logits = self.plain_outputs(model, example)
        return torch.nn.functional.cross_entropy(logits, torch.tensor([example.target], device=logits.device))
