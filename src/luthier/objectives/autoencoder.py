"""Reconstruction: an image is reconstructed from a short code, and what is badly reconstructed is unusual.

Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders"; Kingma & Welling 2014, "Auto-Encoding Variational Bayes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.types import HELD_OUT, Batch, Example, Record
from luthier.objectives.anomaly import AnomalyObjective, AnomalySpec, Score, normal_draws
from luthier.objectives.squares import UNIT, SquaresSpec, decode, view

if TYPE_CHECKING:
    from torch import Tensor, nn


class Autoencoder(SquaresSpec, AnomalySpec):
    """Learn to reconstruct images from a short code."""

    kind: Literal["autoencoder"] = "autoencoder"
    variant: Literal["plain", "denoising", "variational"] = Field(
        default="denoising",
        description="denoising: what goes in has noise, what is reconstructed has none, so that few images are not learned by heart; plain: without noise; variational: the code is drawn at random around its mean, and all codes together look like a normal distribution.",
    )
    code: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Numbers that an image is written as; the baseline PCA has as many components. Fewer leave less of what is unusual in the reconstruction.",
    )
    noise: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Of the denoising variant: standard deviation of the noise, as a share of the way from black to white.",
    )
    kl_weight: float = Field(
        default=0.05,
        ge=0,
        description="Of the variational variant: what the distance of the codes from a normal distribution counts beside the squared error, in nats (twice the variance of a pixel's noise; β of a β-VAE).",
    )
    score: Score = Field(
        default="relative",
        description="How unusual an image is. relative: the squared error over the image's own variance, the share of it that is not reconstructed; error: the squared error of a pixel, which rises with the contrast.",
    )

    def open(self, processor: Any, input: tuple[str, ...], target: str | None) -> AutoencoderObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column of the known classes, which are not learned; None where there are none.
        """
        return AutoencoderObjective(self, processor, input, target)


class AutoencoderObjective(AnomalyObjective):
    """See `Autoencoder`."""

    varies = "images"
    splits = False
    """What an image teaches depends on the images beside it: a batch norm is in the network."""
    unit = "pixel"

    @property
    def how(self) -> Score:
        """As the spec says."""
        return self.spec.score

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        found = []
        pictures = decode(records, self.input[0], self.spec.side, self.spec.channels)
        for position, (record, pixels) in enumerate(zip(records, pictures, strict=True)):
            abnormal = self.known_kind(record)
            found.append(
                Example(
                    index=position,
                    inputs={"pixels": pixels},
                    target=None,
                    record=record,
                    size=max(1, self.spec.side**2 // UNIT),
                    units=float(pixels.size) if abnormal <= 0 else 0.0,
                    facts={"abnormal": abnormal, "label": str(record.values.get(self.target or "") or "")},
                )
            )
        return found

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The images of a step, and what is drawn at random for each: the same for the same seed, step and row; nothing for held-out rows.

        # pixels, noise: (examples, channels, side, side); draw: (examples, code)
        """
        import torch

        spec, pixels = self.spec, np.stack([view(self, example, seed, step) for example in examples])
        each = {"pixels": torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))}
        rows = np.array([example.index for example in examples])
        if step != HELD_OUT and spec.variant == "denoising":
            noise = 2 * spec.noise * normal_draws(rows, pixels[0].size, seed, "noise", step)
            each["noise"] = torch.from_numpy(noise).view(each["pixels"].shape)
        if step != HELD_OUT and spec.variant == "variational":
            each["draw"] = torch.from_numpy(normal_draws(rows, spec.code, seed, "code", step))
        each["learned"] = torch.tensor([example.facts["abnormal"] <= 0 for example in examples], dtype=torch.float32)
        return Batch(
            index=torch.from_numpy(rows),
            lengths=torch.tensor([example.size for example in examples]),
            flat={},
            each={**each, "abnormal": torch.tensor([example.facts["abnormal"] for example in examples])},
        )

    def prompt_tokens(self, example: Example) -> tuple[int, ...]:
        """An image has no tokens."""
        return ()

    def _errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Each image's squared error and weighted KL divergence, and its pixels from -1 to 1, # (examples,), (examples,), (examples, channels, side, side)"""
        import torch

        reconstructed, mean, log_variance = model(batch)
        target = model.target(batch)
        squared = (reconstructed - target).square().flatten(1).sum(1)
        if log_variance is None:
            return squared, torch.zeros_like(squared), target
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return squared, self.spec.kl_weight * divergence, target

    def reference_loss(self, model: nn.Module, example: Example) -> Tensor | None:
        """The same by the network's own parts, in the order of the definition."""
        import torch

        from luthier.models.modes import eval_mode

        network: Any = cast(Any, model).network
        weight = network.to_code.weight
        pixels = torch.tensor(example.inputs["pixels"], device=weight.device).permute(2, 0, 1)[None].float()
        with eval_mode(model), torch.no_grad():
            target = (pixels - 127.5) / 127.5
            mean, log_variance = network.encode(target.to(weight.dtype))
            total = ((network.decode(mean).float() - target) ** 2).sum()
            if log_variance is not None:
                spread = torch.distributions.Normal(mean.float(), (0.5 * log_variance.float()).exp())
                total = total + self.spec.kl_weight * torch.distributions.kl_divergence(spread, torch.distributions.Normal(0.0, 1.0)).sum()
        return total

    def reconstruct(self, model: nn.Module, examples: Sequence[Example]) -> np.ndarray:
        """Images as the model reconstructs them, # (examples, side, side, channels) of uint8"""
        import torch

        from luthier.models.modes import eval_mode

        device = next(model.parameters()).device
        with eval_mode(model), torch.no_grad():
            reconstructed = cast(Any, model)(self.collate(examples, 0, HELD_OUT).to(device))[0]
        levels = ((reconstructed.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()
