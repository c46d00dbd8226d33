"""Networks that write an image down as a short code and reconstruct it from the code: transformers' ResNet, and a decoder.

Source: Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks"; Kingma & Welling 2014, "Auto-Encoding Variational Bayes".
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from transformers import ResNetConfig, ResNetModel, ResNetPreTrainedModel
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from luthier.core.errors import ModelError
from luthier.models.kernels.fused_maps import RELU, norm_add_clamp
from luthier.models.vision import MIDDLE, ConvolutionModel, stages_for

if TYPE_CHECKING:
    from luthier.core.types import Batch
    from luthier.models.base import Base

NARROWEST = 16
"""Channels that the decoder has at least."""


class ResNetAutoencoder(ResNetPreTrainedModel):
    """A ResNet that ends in a code, and a decoder. Its `resnet.…` weights are those of `ResNetForImageClassification`, so a classifier can be trained on it.

    Args:
        config: with `code` (numbers that an image is written as), `side` (pixels) and `variational` (whether the code is a mean and a log variance).
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.resnet = ResNetModel(config)
        self.sides = sides_of(config.side, len(config.depths))
        top, code = config.hidden_sizes[-1], config.code
        self.to_code = nn.Linear(top * self.sides[0] ** 2, code * (2 if config.variational else 1))
        self.from_code = nn.Linear(code, top * self.sides[0] ** 2)
        self.dropout = nn.Dropout(0.0)
        widths = [top]
        for _ in self.sides[1:]:
            widths.append(max(NARROWEST, widths[-1] // 2))
        self.decoder = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(wide, narrow, 3, padding=1, bias=False), nn.BatchNorm2d(narrow)]) for wide, narrow in pairwise(widths)
        )
        self.to_pixels = nn.Conv2d(widths[-1], config.num_channels, 3, padding=1)
        self.register_buffer("threshold", torch.tensor(float("inf")))
        self.post_init()

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The code of each image, and its log variance where the code is variational, # (examples, channels, side, side) → (examples, code)"""
        encoded = self.to_code(cast(Any, self.resnet(pixels)).last_hidden_state.flatten(1))
        if not self.config.variational:
            return encoded, None
        mean, log_variance = encoded.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, code: Tensor) -> Tensor:
        """The image that a code stands for, from -1 to 1 and a little beyond, # (examples, code) → (examples, channels, side, side)"""
        top, side = cast(Any, self.config).hidden_sizes[-1], self.sides[0]
        maps = relu(self.from_code(self.dropout(code))).view(-1, top, side, side).contiguous(memory_format=torch.channels_last)
        for wide, (convolution, norm) in zip(self.sides[1:], cast(Any, self.decoder), strict=True):
            maps = norm_add_clamp(norm, convolution(interpolate(maps, size=(wide, wide), mode="nearest")), bounds=RELU)
        return self.to_pixels(maps)


def sides_of(side: int, stages: int) -> list[int]:
    """Sides of the decoder's maps, from those that the encoder ends in up to the image's.

    Args:
        side: of the image, in pixels.
        stages: of the encoder.
    """
    last = side
    for _ in range(stages + 1):  # the stem halves twice, each stage but the first once
        last = (last - 1) // 2 + 1
    sides = [last]
    while sides[-1] < side:
        sides.append(min(2 * sides[-1], side))
    return sides


class AutoencoderModel(ConvolutionModel):
    """An autoencoder as the loop, the adaptations and the checkpoints see it.

    Args:
        network: the autoencoder.
        dropout: share of the code's numbers dropped while training.
        new: whether its decoder is new.
    """

    def __init__(self, network: ResNetAutoencoder, dropout: float, new: bool = True) -> None:
        super().__init__(network, dropout)
        self.new = new

    @property
    def head(self) -> list[nn.Module]:
        """What lies behind the encoder."""
        network = self.network
        return [network.to_code, network.from_code, network.decoder, network.to_pixels]

    def target(self, batch: Batch) -> Tensor:
        """The pixels from -1 to 1, # (examples, channels, side, side)"""
        return batch.each["pixels"].float() / MIDDLE - 1

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Each image's reconstruction, its code, and the code's log variance, # (examples, channels, side, side), (examples, code), (examples, code)

        Args:
            batch: with `each["pixels"]`, 0 to 255, # (examples, channels, side, side); where training adds noise also `noise`, of the same shape, in the
                scale from -1 to 1, and where it draws a variational code `draw`, # (examples, code)
        """
        inputs = self.target(batch)
        if "noise" in batch.each:
            inputs = inputs + batch.each["noise"]
        code, log_variance = self.network.encode(inputs.to(self.network.to_code.weight.dtype, memory_format=torch.channels_last))
        sampled = code
        if log_variance is not None and "draw" in batch.each:
            sampled = code + (0.5 * log_variance).exp() * batch.each["draw"].to(code.dtype)
        return self.network.decode(sampled).float(), code.float(), None if log_variance is None else log_variance.float()


def _begin_grey(network: ResNetAutoencoder, decoder_alone: bool = False) -> None:
    """Let the network begin by reconstructing every image as middle grey; layers of a new encoder begin by passing their input on."""
    with torch.no_grad():
        for parameter in network.to_pixels.parameters():
            parameter.zero_()
        for module in network.modules() if not decoder_alone else ():
            if isinstance(module, ResNetBasicLayer):
                cast(Any, module.layer[-1]).normalization.weight.zero_()


def make_autoencoder(
    channels: int, side: int, width: int, depth: int, code: int, variational: bool, dropout: float, seed: int
) -> AutoencoderModel:
    """An autoencoder with new weights; its last layer is zero, so it begins by reconstructing every image as middle grey.

    Args:
        channels: 1 for grey images, 3 for coloured ones.
        side: of the images, in pixels.
        width: channels of the encoder's first stage.
        depth: layers of each of its stages, of two convolutions each.
        code: numbers that an image is written as.
        variational: whether the code is a mean and a log variance.
        dropout: share of the code's numbers dropped while training.
        seed: of the first weights.
    """
    stages = stages_for(side)
    config = ResNetConfig(
        num_channels=channels, embedding_size=width, hidden_sizes=[width << stage for stage in range(stages)], depths=[depth] * stages, layer_type="basic"
    )  # fmt: skip
    _describe(config, side, code, variational)
    torch.manual_seed(seed)
    network = ResNetAutoencoder(config)
    _begin_grey(network)
    return AutoencoderModel(network, dropout)


def load_autoencoder(base: Base, channels: int, side: int, code: int, variational: bool, dropout: float, seed: int) -> AutoencoderModel:
    """An autoencoder that is there, such as a bundle's; or a classifier's ResNet as its encoder, with a new decoder.

    Args:
        base: of the kind "image".
        channels: of the images.
        side: of the images, in pixels.
        code: numbers that an image is written as.
        variational: whether the code is a mean and a log variance.
        dropout: share of the code's numbers dropped while training.
        seed: of a new decoder's first weights.

    Raises:
        ModelError: the base reads no images, or images of other channels.
    """
    if base.kind != "image":
        raise ModelError(f"{base.name} is a base for text: it reads no images", "leave --base out: the network is made from scratch")
    if base.family != ResNetConfig.model_type:
        raise ModelError(f"{base.name} is a network of the kind {base.family}, and an autoencoder goes on from a ResNet",
                         "leave --base out, or give the run of an autoencoder or of an image classifier from scratch; of what another network sees: --task feature_autoencoder")  # fmt: skip
    config = ResNetConfig.from_pretrained(base.folder)
    if config.num_channels != channels:
        kind = {1: "grey", 3: "coloured"}
        raise ModelError(
            f"{base.name} reads {kind.get(config.num_channels, 'other')} images, and these are {kind[channels]}",
            f"--set objective.colour={'grey' if channels == 3 else 'rgb'}",
        )
    _describe(config, side, code, variational)
    torch.manual_seed(seed)
    network, loaded = cast(Any, ResNetAutoencoder).from_pretrained(
        base.folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in loaded["mismatched_keys"]}
    new = any(not name.startswith("resnet.") and name != "threshold" for name in {*loaded["missing_keys"], *mismatched})
    if "threshold" in loaded["missing_keys"]:
        network.threshold.fill_(float("inf"))
    if new:
        _begin_grey(network, decoder_alone=True)
    return AutoencoderModel(network, dropout, new)


def _describe(config: Any, side: int, code: int, variational: bool) -> None:
    """Write into the configuration what the decoder is built from."""
    config.side, config.code, config.variational = side, code, variational
