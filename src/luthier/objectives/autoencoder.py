"""Reconstruction: an image is drawn again from a short code, and what is badly drawn is unusual.

Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders"; Kingma & Welling 2014, "Auto-Encoding Variational Bayes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.errors import DataError, ExperimentError
from luthier.core.randomness import mix
from luthier.core.types import HELD_OUT, Batch, Example, Loss, Record, Scores
from luthier.objectives.objective import BaseObjective
from luthier.objectives.squares import UNIT, SquaresSpec, decode, view

if TYPE_CHECKING:
    from torch import Tensor, nn

FLAT = 1 / 127.5
"""Contrast that every image is taken to have besides its own, one step of grey: the error of a blank one would be divided by nothing."""
Score = Literal["relative", "error"]


class Autoencoder(SquaresSpec):
    """Learn to draw images again from a short code."""

    kind: Literal["autoencoder"] = "autoencoder"
    variant: Literal["plain", "denoising", "variational"] = Field(
        default="denoising",
        description="denoising: what goes in has noise, what is drawn has none, so that few images are not learned by heart; plain: without noise; variational: the code is drawn at random around its mean, and all codes together look like a normal distribution.",
    )
    code: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Numbers that an image is written as; the baseline PCA has as many components. Fewer leave less of what is unusual in the drawing.",
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
        description="How unusual an image is. relative: the squared error over the image's own variance, the share of it that is not drawn; error: the squared error of a pixel, which rises with the contrast.",
    )
    false_alarms: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Share of normal images that may be called anomalous; the threshold is fitted on validation rows.",
    )
    normal: str | None = Field(default=None, description="The class that is normal; filled in from data.normal.")

    def open(self, processor: Any, input: tuple[str, ...], target: str | None) -> AutoencoderObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column of the known classes, which are not learned; None where there are none.
        """
        return AutoencoderObjective(self, processor, input, target)


def anomaly_of(squared: np.ndarray, pixels: np.ndarray, how: Score) -> np.ndarray:
    """How unusual images are, # (examples,)

    Args:
        squared: the squared error of each image, summed over its pixels, # (examples,)
        pixels: the images from -1 to 1, # (examples, numbers)
        how: `relative` or `error`.
    """
    count = pixels.shape[1]
    if how == "error":
        return squared / count
    return squared / (count * (pixels.var(1) + FLAT**2))


def scores_of_images(squared: np.ndarray, more: np.ndarray, pixels: np.ndarray, abnormal: np.ndarray, how: Score) -> Scores:
    """Reconstructions as scores; the loss of rows that are known to be abnormal counts nothing.

    Args:
        squared: the squared error of each image, summed over its pixels, # (examples,)
        more: what the loss of each counts besides, # (examples,)
        pixels: the images from -1 to 1, # (examples, numbers)
        abnormal: 1, 0, or -1 where nobody knows, # (examples,)
        how: what makes an image unusual.
    """
    learned = abnormal <= 0
    return Scores(
        loss=np.where(learned, squared + more, 0.0),
        count=np.where(learned, float(pixels.shape[1]), 0.0),
        more={"anomaly": anomaly_of(squared, pixels, how), "abnormal": abnormal},
    )


class AutoencoderObjective(BaseObjective):
    """See `Autoencoder`."""

    varies = "images"
    splits = False
    """What an image teaches depends on the images beside it: a batch norm is in the network."""
    unit = "pixel"
    metrics: tuple[str, ...] = ("loss",)

    def __init__(self, spec: Any, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        if spec.normal and target:
            self.metrics = ("loss", "anomaly_auc")

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        examples = []
        pictures = decode(records, self.input[0], self.spec.side, self.spec.channels)
        for position, (record, pixels) in enumerate(zip(records, pictures, strict=True)):
            abnormal = self._abnormal(record)
            examples.append(
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
        return examples

    def _abnormal(self, record: Record) -> int:
        """Whether a row is known to be abnormal (1) or normal (0); -1 where nobody knows."""
        label = record.values.get(self.target) if self.target else None
        if not self.spec.normal or label is None or not str(label).strip():
            return -1
        return int(str(label) != self.spec.normal)

    def fit(self, train: Sequence[Example]) -> None:
        """Nothing is fitted; rows that are abnormal must not be learned from.

        Raises:
            DataError: there are such rows.
            ExperimentError: the metric needs classes, and none are known.
        """
        wrong = next((example for example in train if example.facts["abnormal"] > 0), None)
        if wrong is not None:
            raise DataError(
                f"{wrong.record.source}, row {wrong.record.row} has the class {wrong.facts['label']!r}, and only {self.spec.normal!r} is to be learned",
                f"name the class that is normal with --set data.normal={self.spec.normal}, and not under objective",
            )
        if self.metrics[0] == "anomaly_auc" and not self.spec.normal:
            raise ExperimentError("the metric anomaly_auc needs rows that are known to be normal or not", "name the column with --target and the class with --set data.normal=CLASS, or leave --metric out")  # fmt: skip

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

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The squared error summed over the pixels, and the weighted distance of the codes from a normal distribution; the count is that of the pixels."""
        squared, apart, _ = self._errors(model, batch)
        learned = batch.each["learned"]
        return Loss(((squared + apart) * learned).sum(), float(learned.sum()) * batch.each["pixels"][0].numel())

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss of each row, and how unusual it is."""
        import torch

        with torch.no_grad():
            squared, apart, pixels = self._errors(model, batch)
        abnormal = batch.each["abnormal"].cpu().numpy()
        one, two = squared.double().cpu().numpy(), apart.double().cpu().numpy()
        scores = scores_of_images(one, two, pixels.flatten(1).double().cpu().numpy(), abnormal, self.spec.score)
        flagged = (scores.more["anomaly"] > float(cast(Any, model).network.threshold)).astype(np.uint8)
        return Scores(scores.loss, scores.count, more={**scores.more, "flagged": flagged})

    def _errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Each image's squared error and weighted KL divergence, and what was to be drawn, # (examples,), (examples,), (examples, channels, side, side)"""
        import torch

        output, mean, log_variance = model(batch)
        target = model.target(batch)
        squared = (output - target).square().flatten(1).sum(1)
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
        """What the model draws of images, # (examples, side, side, channels) of uint8"""
        import torch

        from luthier.models.modes import eval_mode

        device = next(model.parameters()).device
        with eval_mode(model), torch.no_grad():
            output = cast(Any, model)(self.collate(examples, 0, HELD_OUT).to(device))[0]
        levels = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()


def normal_draws(rows: np.ndarray, count: int, seed: int, what: str, step: int) -> np.ndarray:
    """Numbers from a normal distribution, the same for the same seed, step and row, # (rows, count) of float32

    Source: Box & Muller 1958.

    Args:
        rows: numbers of the examples, # (rows,)
        count: numbers for each.
        seed: of the experiment.
        what: they are for.
        step: counted from 0.
    """
    places = np.arange(count)[None]
    one, two = (mix(seed, what, step, rows[:, None], 2 * places + half) / 2.0**64 for half in (0, 1))
    return (np.sqrt(-2 * np.log1p(-one * (1 - 2.0**-52))) * np.cos(2 * np.pi * two)).astype(np.float32)
