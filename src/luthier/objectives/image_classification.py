"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.types import Batch, Example, Record
from luthier.objectives.classification import ClassificationObjective
from luthier.objectives.objective import BaseObjective
from luthier.objectives.squares import UNIT, SquaresSpec, decode, view

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


class ImageClassificationObjective(ClassificationObjective):
    """See `ImageClassification`; loss, weights and scores are those of any classifier."""

    varies = "images"
    cuts, against_cuts = BaseObjective.cuts, BaseObjective.against_cuts
    splits = False
    """What an image teaches depends on the images beside it: a batch norm is in the network."""

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        indices = {label: position for position, label in enumerate(self.spec.labels)}
        examples = []
        for position, (record, pixels) in enumerate(
            zip(records, decode(records, self.input[0], self.spec.side, self.spec.channels), strict=True)
        ):
            target = indices.get(str(record.values.get(self.target or "")), -1)
            examples.append(
                Example(
                    index=position,
                    inputs={"pixels": pixels},
                    target=target,
                    record=record,
                    size=max(1, self.spec.side**2 // UNIT),
                    units=float(target >= 0),
                    stratum=target,
                    facts={"labels": self.spec.labels},
                )
            )
        return examples

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The images of a step, some of them changed where the experiment asks for it, # pixels: (examples, channels, side, side)"""
        import torch

        pixels = np.stack([view(self, example, seed, step) for example in examples])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={},
            each={
                "pixels": torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
                "target": torch.tensor([example.target for example in examples]),
            },
        )

    def prompt_tokens(self, example: Example) -> tuple[int, ...]:
        """An image has no tokens."""
        return ()

    def reference_loss(self, model: nn.Module, example: Example) -> torch.Tensor | None:
        """The loss by transformers' own forward pass, which is given labels and an image as the bundle says that it is to be read."""
        import torch

        from luthier.models.modes import eval_mode

        weight = next(model.parameters())
        pixels = torch.tensor(example.inputs["pixels"], device=weight.device).permute(2, 0, 1)[None].float() / 255
        mean, deviation = (
            torch.tensor(value, device=weight.device)[:, None, None] for value in (self.tokenizer.mean, self.tokenizer.deviation)
        )
        with eval_mode(model), torch.no_grad():
            logits = cast(Any, model).network(pixel_values=((pixels - mean) / deviation).to(weight.dtype)).logits.float()
        return torch.nn.functional.cross_entropy(logits, torch.tensor([example.target], device=weight.device))
