"""Reconstruction of texts: the vector that a frozen encoder gives of a text is reconstructed from a short code, and a text whose vector is badly reconstructed is unusual.

Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.types import Example, Record
from luthier.objectives.anomaly import AnomalySpec
from luthier.objectives.text_rows import MAX_LENGTH, LongRows, MaxLength, MostWindows, Overlap, TextObjective
from luthier.objectives.vector_reconstruction import VectorReconstructionObjective

if TYPE_CHECKING:
    from torch import Tensor, nn


class TextAutoencoder(AnomalySpec):
    """Learn to reconstruct the vectors of texts from a short code."""

    kind: Literal["text_autoencoder"] = "text_autoencoder"
    code: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="Numbers that a text's vector is written as; the baseline PCA has as many components. Fewer leave less of what is unusual in what is reconstructed.",
    )
    hidden: int = Field(default=256, ge=1, le=8192, description="Width of the layer on either side of the code.")
    noise: float = Field(
        default=0.5,
        ge=0,
        le=4,
        description="Standard deviation of the noise that is added to a training text's vector, in standard deviations of the vectors' numbers; what is reconstructed has none. 0 adds none.",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        default="auto",
        description="How an encoder's tokens become one vector; auto: as the base's own files say, and the mean where they say nothing.",
    )
    max_length: MaxLength = MAX_LENGTH
    long_rows: LongRows = "cut"
    overlap: Overlap = 32
    most_windows: MostWindows = 16

    def open(self, processor: Any, input: tuple[str, ...], target: str | None) -> TextAutoencoderObjective:
        """The objective at work.

        Args:
            processor: the base's tokenizer.
            input: the columns that are read.
            target: the column of the known classes, which are not learned; None where there are none.
        """
        return TextAutoencoderObjective(self, processor, input, target)


class TextAutoencoderObjective(VectorReconstructionObjective, TextObjective):
    """See `TextAutoencoder`."""

    unit = "number of a vector"
    learned = "text"
    reads_pairs = False

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Records to examples; a text that is known to be abnormal teaches nothing."""
        kinds = [self.known_kind(record) for record in records]
        return [
            Example(
                index=position,
                inputs=inputs,
                target=None,
                record=record,
                size=len(inputs["tokens"]),
                units=float(kind <= 0),
                facts={"cut": cut, "abnormal": kind, "label": record.text([self.target or ""]), "text": record.text(self.input)},
            )
            for position, (record, kind, (inputs, cut)) in enumerate(zip(records, kinds, self.tokenize(records), strict=True))
        ]

    def reference_loss(self, model: nn.Module, example: Example) -> Tensor | None:
        """The same by transformers' own forward pass on the bare text, and the definition."""
        import torch

        from luthier.models.modes import eval_mode

        at: Any = model
        if "place" in example.inputs:
            return None
        tokens = torch.tensor([list(example.tokens)], device=next(at.parameters()).device)
        with eval_mode(at), torch.no_grad():
            one = at.embed_padded(tokens, torch.ones_like(tokens))
            autoencoder = at.network.autoencoder
            target = (one - autoencoder.mean) / autoencoder.spread
            return ((autoencoder(target) - target) ** 2).sum()
