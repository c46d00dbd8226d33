"""How rows of images become squares of pixels, for every objective that reads an image and says one thing of it: a class, a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from luthier.core.types import Batch, Example, Record
from luthier.objectives.objective import BaseObjective
from luthier.objectives.squares import UNIT, decode, view

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageRows(BaseObjective):
    """Reads images in the place of texts: it stands before an objective that says what is learned of a row, and that has `targets`."""

    varies = "images"
    cuts, remedy_for_cuts = BaseObjective.cuts, BaseObjective.remedy_for_cuts  # no text is cut, whatever stands behind it
    splits = False
    """What an image teaches depends on the images beside it: a batch norm is in the network."""

    if TYPE_CHECKING:

        def targets(self, examples: Sequence[Example]) -> torch.Tensor:
            """What is to be learned of each, # (examples, …)"""
            ...

    def make_examples(
        self, records: Sequence[Record], targets: Sequence[Any], learns: Callable[[Any], bool], strata: bool = False, **facts: Any
    ) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8

        Args:
            records: rows.
            targets: what is learned of each.
            learns: whether something is learned from a target.
            strata: whether a target is the row's class.
            facts: kept about every row.

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        squares = decode(records, self.input[0], self.spec.side, self.spec.channels)
        return [
            Example(
                index=position,
                inputs={"pixels": pixels},
                target=target,
                record=record,
                size=max(1, self.spec.side**2 // UNIT),
                units=float(learns(target)),
                stratum=target if strata else None,
                facts=dict(facts),
            )
            for position, (record, target, pixels) in enumerate(zip(records, targets, squares, strict=True))
        ]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The images of a step, some of them changed where the experiment asks for it, # pixels: (examples, channels, side, side)"""
        import torch

        pixels = np.stack([view(self, example, seed, step) for example in examples])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={},
            each={"pixels": torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), "target": self.targets(examples)},
        )

    def prompt_tokens(self, example: Example) -> tuple[int, ...]:
        """An image has no tokens."""
        return ()

    def plain_outputs(self, model: nn.Module, example: Example) -> torch.Tensor:
        """What transformers' own forward pass gives, asked as the bundle says that an image is to be read, # (1, outputs)

        Args:
            model: the network of a family of images.
            example: one row.
        """
        import torch

        from luthier.models.modes import eval_mode

        weight = next(model.parameters())
        pixels = torch.tensor(example.inputs["pixels"], device=weight.device).permute(2, 0, 1)[None].float() / 255
        mean, deviation = (
            torch.tensor(value, device=weight.device)[:, None, None] for value in (self.tokenizer.mean, self.tokenizer.deviation)
        )
        with eval_mode(model), torch.no_grad():
            return cast(Any, model).network(pixel_values=((pixels - mean) / deviation).to(weight.dtype)).logits.float()
