"""Reconstruction of what a frozen network sees in an image: from a short code of all its places, and an image whose maps are badly reconstructed is unusual.

Source: Yang, Shi & Qi 2020, "DFR: Deep Feature Reconstruction for Unsupervised Anomaly Segmentation"; Vincent et al. 2008, "Extracting and Composing
Robust Features with Denoising Autoencoders".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.types import HELD_OUT, Batch, Example, Record
from luthier.objectives.anomaly import AnomalySpec
from luthier.objectives.image_rows import ImageRows
from luthier.objectives.squares import ReadSquares
from luthier.objectives.vector_reconstruction import VectorReconstructionObjective

if TYPE_CHECKING:
    from torch import Tensor, nn


class FeatureAutoencoder(ReadSquares, AnomalySpec):
    """Learn to reconstruct what a pretrained network sees in the places of images from a short code."""

    kind: Literal["feature_autoencoder"] = "feature_autoencoder"
    grid: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Places on each side that the base's maps are divided into, at most as many as they have; 1 forgets where something is seen.",
    )
    code: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="Numbers that all places of an image together are written as; the baselines PCA have as many components. Fewer leave less of what is unusual in what is reconstructed.",
    )
    hidden: int = Field(default=256, ge=1, le=8192, description="Width of the layers beside the linear way to the code and back.")
    noise: float = Field(
        default=0.5,
        ge=0,
        le=4,
        description="Standard deviation of the noise that is added to what the base sees of a training image, in standard deviations of these numbers; what is reconstructed has none. 0 adds none.",
    )

    def open(self, processor: Any, input: tuple[str, ...], target: str | None) -> FeatureAutoencoderObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column of the known classes, which are not learned; None where there are none.
        """
        return FeatureAutoencoderObjective(self, processor, input, target)


class FeatureAutoencoderObjective(VectorReconstructionObjective, ImageRows):
    """See `FeatureAutoencoder`."""

    unit = "number of a map"
    splits = True
    """The base's batch norms do not move: what an image teaches does not depend on the images beside it."""

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8; an image that is known to be abnormal teaches nothing.

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        kinds = [self.known_kind(record) for record in records]
        examples = self.make_examples(records, kinds, lambda kind: kind <= 0)
        return [
            replace(example, facts={"abnormal": kind, "label": str(record.values.get(self.target or "") or "")})
            for example, kind, record in zip(examples, kinds, records, strict=True)
        ]

    def place_errors(self, model: nn.Module, examples: Sequence[Example]) -> np.ndarray:
        """In which places an image is badly reconstructed: the mean squared error of their numbers, # (examples, rows, columns)"""
        import torch

        from luthier.models.modes import eval_mode

        device = next(model.parameters()).device
        with eval_mode(model), torch.no_grad():
            rebuilt, target = cast(Any, model)(self.collate(examples, 0, HELD_OUT).to(device)).chunk(2, dim=1)
        squared = (rebuilt - target).square().double().cpu().numpy()
        return squared.reshape(len(examples), -1, *cast(Any, model).places).mean(1)

    def reference_loss(self, model: nn.Module, example: Example) -> Tensor | None:
        """The same by torch's own pooling of the base's maps of the bare image, and the definition."""
        import torch
        from torch.nn.functional import adaptive_avg_pool2d, gelu

        from luthier.models.modes import eval_mode

        at: Any = model
        own, device = at.network.autoencoder, next(at.parameters()).device
        pixels = torch.tensor(example.inputs["pixels"], device=device).permute(2, 0, 1)[None]
        with eval_mode(at), torch.no_grad():
            maps = at.maps(Batch(torch.zeros(1), torch.ones(1), {}, {"pixels": pixels}))
            target = (adaptive_avg_pool2d(maps.float(), at.places).flatten(1) - own.mean) / own.spread
            code = own.down(target) + own.to_code(gelu(own.narrow(target)))
            return ((own.up(code) + own.to_vector(gelu(own.widen(code))) - target) ** 2).sum()
