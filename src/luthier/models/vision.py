"""Networks that read images: transformers' ResNet, made from scratch or from a bundle, and bases that learned from many images."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer
from transformers.utils import logging

from luthier.core.errors import ModelError
from luthier.models.base import ONE_SIDE, OWN_VISION
from luthier.models.cifar_resnet import CifarResNet
from luthier.models.dropout import attach
from luthier.models.efficientnet_lite import EfficientNetLite
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.kernels.fused_maps import fuse_maps
from luthier.models.kernels.image_kernels import ImageKernels
from luthier.models.modes import eval_mode
from luthier.models.preprocessing import Preprocessing, read_preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Batch
    from luthier.models.base import Base

logging.set_verbosity_error()  # a head of another size is no surprise
logging.disable_progress_bar()

MIDDLE = 127.5
"""Of the values that a pixel may have: what goes into the network lies between -1 and 1."""
STEM = 4
"""The stem's convolution and its pooling make the sides of an image smaller by this."""
LEAST = 2
"""Side that the last stage's maps have at least: of one row alone a batch norm needs more than one value."""
MOMENTUM = 0.3
"""Of a batch norm's running statistics: with torch's 0.1 they lag behind a network that learns from few images, and held-out images are judged by
statistics that are not its own: after 30 steps a loss of 1.39 where it was 0.44 (600 chest X-rays)."""
BASE_MOMENTUM = 0.1
"""The same of a base that learned from many images: its statistics are nearly right from the beginning."""
OURS: dict[str, Any] = {"efficientnet_lite": EfficientNetLite, "cifar_resnet": CifarResNet}
"""Architecture → network, where transformers has none."""
BLOCKS = {"vit": "layers", "dinov2": "encoder.layer"}
"""Architecture → where its blocks lie; of the others the stages of the encoder."""
STAGES = 4
"""At most; each doubles the channels and halves the sides."""


class ConvolutionModel(nn.Module):
    """What networks on transformers' ResNet share, as the loop, the adaptations and the checkpoints see them.

    Args:
        network: of transformers; its `resnet` is the encoder.
        dropout: share of activations dropped while training.
    """

    packs = False
    """Images do not come end to end."""
    causal = False

    def __init__(self, network: Any, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.dropout = dropout
        self.dropout_keys = attach(network, dropout)
        for name, module in network.named_modules():
            module.luthier_site = name
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        self.frozen_cache: Any = None

    @property
    def blocks(self) -> nn.ModuleList:
        """The encoder's stages, first to last."""
        return cast(nn.ModuleList, self.network.resnet.encoder.stages)

    def micro_batches(self, batch: Batch, limit: int) -> list[Batch]:
        """The batch in micro-batches that cost at most so much."""
        return batch.split(limit)

    def load_kernels(self) -> None:
        """Compute what lies between convolutions by compiled code while training; it is compiled first where it is not kept.

        Raises:
            ModelError: it cannot be had.
        """
        fuse_maps(self.network, ImageKernels())


class ImageNetwork(ConvolutionModel):
    """A network for images, as the loop, the adaptations and the checkpoints see it.

    Args:
        network: for image classification; of a number it has one output.
        dropout: share of the pooled features dropped while training, and of what passes where the network has dropout of its own.
        preprocessing: by what pixels are shifted and scaled; None lets them lie between -1 and 1.
        momentum: of the running statistics of its batch norms.
    """

    adapter_task = None  # PEFT has no name for it

    def __init__(self, network: Any, dropout: float, preprocessing: Preprocessing | None = None, momentum: float = MOMENTUM) -> None:
        network.dropout = nn.Dropout(dropout)  # no weights: what is kept of the network is what transformers reads
        super().__init__(network, dropout)
        self.preprocessing = preprocessing or Preprocessing(0, network.config.num_channels)
        self.family = network.config.model_type
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
            if isinstance(getattr(module, "attention_dropout", None), float):
                cast(Any, module).attention_dropout = 0.0  # it would be drawn from torch's own generator

    @property
    def body(self) -> Any:
        """The network without its head; of those that transformers does not have, all of it."""
        return self.network if self.family in OWN_VISION else self.network.base_model

    @property
    def blocks(self) -> nn.ModuleList:
        """The stages, first to last; of a network of attention its blocks."""
        if self.family == "efficientnet":
            return nn.ModuleList([nn.ModuleList(stage) for stage in self._mobile_stages()])
        return self.body.stages if self.family in OWN_VISION else self.body.get_submodule(BLOCKS.get(self.family, "encoder.stages"))

    def _mobile_stages(self) -> list[list[nn.Module]]:
        """The blocks of EfficientNet by the stage they are in; the convolution on top is part of the last one."""
        config, encoder = self.network.config, self.body.encoder
        blocks = iter(encoder.blocks)
        stages = [[next(blocks) for _ in range(math.ceil(config.depth_coefficient * count))] for count in config.num_block_repeats]
        stages[-1] += [encoder.top_conv, encoder.top_bn, encoder.top_activation]
        return stages

    @property
    def head(self) -> list[nn.Module]:
        """What decides between the classes, or says the number."""
        return [self.network.classifier]

    def normalised_pixels(self, batch: Batch) -> Tensor:
        """The pixels as the network reads them, in its own dtype, # (examples, channels, height, width)"""
        pixels, dtype = batch.each["pixels"].float(), next(self.network.classifier.parameters()).dtype
        if self.preprocessing.plain:
            shifted = pixels / MIDDLE - 1
        else:
            mean, deviation = (
                torch.tensor(values, device=pixels.device).view(-1, 1, 1) * 255
                for values in (self.preprocessing.mean, self.preprocessing.deviation)
            )
            shifted = (pixels - mean) / deviation
        return shifted.to(dtype, memory_format=torch.channels_last)  # a quarter faster (docs/results/families.md#image-bases)

    def stage_means(self, batch: Batch, depths: Sequence[int]) -> Tensor:
        """The mean map (of a network of attention, the mean token) behind so many blocks, for each of some numbers, end to end, # (examples, channels of all)

        Args:
            batch: as for `forward`.
            depths: how many blocks, ascending.
        """
        ends: Any = [stage[-1] for stage in self._mobile_stages()] if self.family == "efficientnet" else self.blocks
        with eval_mode(self), torch.no_grad():
            outputs = capture_hidden_states(ends, depths, lambda: self.body(self.normalised_pixels(batch)))
            return torch.cat([_mean(unwrap_states(each).float()) for each in outputs], 1)

    def forward(self, batch: Batch) -> Tensor:
        """The score of each class, # (examples, classes)

        Args:
            batch: with `each["pixels"]`, 0 to 255, # (examples, channels, height, width)
        """
        return self.network.classifier(self.network.dropout(self._pool(self.normalised_pixels(batch))))

    def _pool(self, pixels: Tensor) -> Tensor:
        """What the head reads, # (examples, width)"""
        if self.family in OWN_VISION:
            return self.network.stage_maps(pixels)[-1].mean((2, 3))
        output = self.body(pixels)
        if self.family == "dinov2":
            return torch.cat([output.last_hidden_state[:, 0], output.last_hidden_state[:, 1:].mean(1)], 1)
        if self.family in ONE_SIDE:
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)


def _mean(states: Tensor) -> Tensor:
    """The mean over all places, # (examples, channels, height, width) or (examples, tokens, width) → (examples, channels or width)"""
    return states.mean((2, 3)) if states.ndim == 4 else states.mean(1)


def stages_for(side: int) -> int:
    """How many stages suit an image of this side: the last one's maps stay at least `LEAST` wide."""
    return max(1, min(STAGES, (side // (STEM * LEAST)).bit_length()))


def make_network(
    labels: Sequence[str], channels: int, side: int, width: int, depth: int, dropout: float, seed: int, problem: str | None = None
) -> ImageNetwork:
    """A ResNet of basic layers with new weights; its head is zero, so it begins by giving every class the same chance, or by saying the mean.

    The last batch norm of each layer begins at zero as well, so a layer begins by passing its input on.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1.

    Args:
        labels: the classes, in order; of a number its one output.
        channels: 1 for grey images, 3 for coloured ones.
        side: of the images, in pixels.
        width: channels of the first stage.
        depth: layers of each stage, of two convolutions each.
        dropout: share of the pooled features dropped while training.
        seed: of the first weights.
        problem: what the outputs mean, as transformers calls it; None: classes.
    """
    stages = stages_for(side)
    config = ResNetConfig(
        num_channels=channels,
        embedding_size=width,
        hidden_sizes=[width << stage for stage in range(stages)],
        depths=[depth] * stages,
        layer_type="basic",
        **_outputs(labels, problem),
    )
    torch.manual_seed(seed)
    network = ResNetForImageClassification(config)
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.zero_()
        for module in network.modules():
            if isinstance(module, ResNetBasicLayer):
                cast(Any, module.layer[-1]).normalization.weight.zero_()
    return ImageNetwork(network, dropout)


def load_network(
    base: Base, labels: Sequence[str], channels: int, dropout: float, seed: int, side: int = 0, problem: str | None = None
) -> ImageNetwork:
    """A network that is there, such as a bundle's; a head for these very outputs is kept, and another one begins anew, at zero.

    Branches are never left out by chance: what its configuration says of that is set to 0.

    Args:
        base: of the kind "image".
        labels: the classes, in order; of a number its one output.
        channels: of the images.
        dropout: share of the pooled features dropped while training.
        seed: of what is new in it beside the head.
        side: of the images, in pixels; 0 where it is that of the base.
        problem: what the outputs mean, as transformers calls it; None: classes.

    Raises:
        ModelError: the base reads no images, or images of other channels, or of another side.
    """
    if base.kind != "image":
        raise ModelError(f"{base.name} is a base for text: it reads no images", "leave --base out: the network is made from scratch")
    torch.manual_seed(seed)
    config = json.loads((base.folder / "config.json").read_text())
    still = {"drop_path_rate": 0.0} if "drop_path_rate" in config else {}
    made = OURS.get(base.family, AutoModelForImageClassification)
    network = made.from_pretrained(base.folder, dtype=torch.float32, ignore_mismatched_sizes=True, **still, **_outputs(labels, problem))
    if network.config.num_channels != channels:
        kind = {1: "grey", 3: "coloured"}
        raise ModelError(
            f"{base.name} reads {kind.get(network.config.num_channels, 'other')} images, and these are {kind[channels]}",
            f"--set objective.colour={'grey' if channels == 3 else 'rgb'}",
        )
    _refuse_side(base, network.config, side)
    known = {int(number): label for number, label in (config.get("id2label") or {}).items()}
    if known != dict(enumerate(labels)):
        with torch.no_grad():
            for parameter in network.classifier.parameters():
                parameter.zero_()
    momentum = MOMENTUM if base.family == "resnet" and base.bundle is not None else BASE_MOMENTUM
    return ImageNetwork(network, dropout, read_preprocessing(base.folder), momentum)


def _refuse_side(base: Base, config: Any, side: int) -> None:
    """Refuse squares that a network cannot read.

    Raises:
        ModelError: it reads squares of one size alone, or of a certain size and larger.
    """
    if base.family in ONE_SIDE and side not in (0, config.image_size):
        raise ModelError(
            f"{base.name} has a place for each patch of {config.image_size} × {config.image_size} pixels, and cannot read squares of {side}",
            f"--set objective.side={config.image_size}",
        )
    patch = int(getattr(config, "patch_size", None) or 0)
    least = patch << len(config.depths) - 1 if hasattr(config, "depths") else patch
    if 0 < side < least:
        raise ModelError(f"{base.name} reads squares of {least} pixels and more, and these have {side}", f"--set objective.side={least}")


def _outputs(labels: Sequence[str], problem: str | None) -> dict[str, Any]:
    names = dict(enumerate(labels))
    said = {"num_labels": len(labels), "id2label": names, "label2id": {label: number for number, label in names.items()}}
    return said if problem is None else {**said, "problem_type": problem}
