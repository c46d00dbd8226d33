"""EfficientNet-Lite: mobile blocks without squeeze-and-excitation, so that transformers' EfficientNet cannot hold its weights.

Source: Tan & Le 2019, "EfficientNet", with the changes that its authors made for the Lite variants: ReLU6, no squeeze-and-excitation, and a first and a
last stage of fixed size.
"""

from __future__ import annotations

import math
from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from luthier.models.image_stages import StagedNetwork
from luthier.models.kernels.fused_maps import OPEN, RELU6, norm_add_clamp

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
"""Of Lite0, for each stage: blocks, side of the kernel, stride of the first block, by how much a block widens, channels."""
STEM, TOP = 32, 1280
"""Channels of the first convolution and of the last: the same in every variant."""
VARIANTS = {"efficientnet-lite0": (1.0, 1.0, 224), "efficientnet-lite1": (1.0, 1.1, 240), "efficientnet-lite2": (1.1, 1.2, 260)}
"""By how much the channels and the blocks are multiplied, and the side of the images that it was trained on."""
EPSILON = 1e-3
"""Of the batch norms."""
MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
"""Of a pixel from 0 to 1, as its authors trained it; the README of the converted weights names ImageNet's, which give fewer right classes."""


class EfficientNetLiteConfig(PreTrainedConfig):
    """How wide and deep the network is.

    Args:
        depths: blocks of each stage.
        hidden_sizes: channels of each stage.
        image_size: side of the images that it was trained on.
        num_channels: 3, for it reads coloured images.
    """

    model_type = "efficientnet_lite"

    def __init__(
        self,
        depths: tuple[int, ...] | list[int] = tuple(stage[0] for stage in STAGES),
        hidden_sizes: tuple[int, ...] | list[int] = tuple(stage[4] for stage in STAGES),
        image_size: int = 224,
        num_channels: int = 3,
        **more: Any,
    ) -> None:
        self.depths, self.hidden_sizes, self.image_size, self.num_channels = list(depths), list(hidden_sizes), image_size, num_channels
        self.hidden_size = TOP
        super().__init__(**more)


def config_of(name: str) -> EfficientNetLiteConfig:
    """The configuration of a variant, of ImageNet's 1,000 classes.

    Args:
        name: a key of `VARIANTS`.
    """
    width, depth, side = VARIANTS[name]
    last = len(STAGES) - 1
    depths = [stage[0] if number in (0, last) else math.ceil(stage[0] * depth) for number, stage in enumerate(STAGES)]
    return EfficientNetLiteConfig(depths, [_in_eights(stage[4] * width) for stage in STAGES], side, num_labels=1000)


def _in_eights(channels: float) -> int:
    """The nearest multiple of eight that is not a tenth smaller."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class SameConvolution(nn.Module):
    """A convolution and its batch norm; the sides become the side divided by the stride, rounded up, as TensorFlow pads them.

    Args:
        wide: channels that come in.
        out: channels that go out.
        kernel: its side.
        stride: of the convolution.
        groups: of channels that do not see each other.
    """

    def __init__(self, wide: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        padding = kernel // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(wide, out, kernel, stride, padding, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, maps: Tensor, residual: Tensor | None = None, bounds: tuple[float, float] = OPEN) -> Tensor:
        """# (examples, channels, height, width) → the same, smaller by the stride; see `norm_add_clamp`"""
        if self.stride > 1:
            across, down = (
                max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in (maps.shape[3], maps.shape[2])
            )
            maps = functional.pad(maps, (across // 2, across - across // 2, down // 2, down - down // 2))
        return norm_add_clamp(self.normalization, self.convolution(maps), residual, bounds)


class MobileBlock(nn.Module):
    """Widen, look around in each channel alone, narrow; the input is added where the shape stays.

    Args:
        wide: channels that come in.
        out: channels that go out.
        kernel: its side.
        stride: of the middle convolution.
        times: by how much the block widens.
    """

    def __init__(self, wide: int, out: int, kernel: int, stride: int, times: int) -> None:
        super().__init__()
        inner = wide * times
        self.adds = stride == 1 and wide == out
        self.expand = SameConvolution(wide, inner) if times > 1 else None
        self.depthwise = SameConvolution(inner, inner, kernel, stride, inner)
        self.project = SameConvolution(inner, out)

    def forward(self, maps: Tensor) -> Tensor:
        """# (examples, channels, height, width)"""
        output = self.expand(maps, None, RELU6) if self.expand is not None else maps
        return self.project(self.depthwise(output, None, RELU6), maps if self.adds else None)


class TopConvolution(SameConvolution):
    """The last convolution, behind the last stage's blocks."""

    def forward(self, maps: Tensor, residual: Tensor | None = None, bounds: tuple[float, float] = RELU6) -> Tensor:
        """# (examples, channels, height, width)"""
        return super().forward(maps, residual, bounds)


class EfficientNetLite(StagedNetwork):
    """See the module; the names of its weights are ours.

    Args:
        config: how wide and deep it is.
    """

    config_class = EfficientNetLiteConfig

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = SameConvolution(config.num_channels, STEM, 3, 2)
        self.stages = nn.ModuleList()
        wide = STEM
        for (_, kernel, stride, times, _), depth, out in zip(STAGES, config.depths, config.hidden_sizes, strict=True):
            blocks: list[nn.Module] = [
                MobileBlock(wide if not number else out, out, kernel, stride if not number else 1, times) for number in range(depth)
            ]
            if len(self.stages) == len(STAGES) - 1:
                blocks.append(TopConvolution(out, TOP))  # frozen with the last stage, not apart from all
            self.stages.append(nn.Sequential(*blocks))
            wide = out
        self.classifier = nn.Linear(TOP, config.num_labels or 1)
        self.post_init()

    def stem_maps(self, pixels: Tensor) -> Tensor:
        """What the first convolution makes of images, # (examples, channels, height, width)"""
        return self.stem(pixels, None, RELU6)


def rename(state: dict[str, Tensor], config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """The weights as `efficientnet-lite-pytorch` names them, under our names.

    Args:
        state: name → weight.
        config: says how many blocks each stage has.
    """
    block_of = [(stage, number) for stage, depth in enumerate(config.depths) for number in range(depth)]
    parts = {"_expand_conv": "expand.convolution", "_bn0": "expand.normalization", "_depthwise_conv": "depthwise.convolution",
             "_bn1": "depthwise.normalization", "_project_conv": "project.convolution", "_bn2": "project.normalization"}  # fmt: skip
    top = f"stages.{len(config.depths) - 1}.{config.depths[-1]}"
    outside = {"_conv_stem": "stem.convolution", "_bn0": "stem.normalization", "_conv_head": f"{top}.convolution",
               "_bn1": f"{top}.normalization", "_fc": "classifier"}  # fmt: skip
    renamed: dict[str, torch.Tensor] = {}
    for name, weight in state.items():
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, part, kind = rest.split(".", 2)
            stage, block = block_of[int(number)]
            renamed[f"stages.{stage}.{block}.{parts[part]}.{kind}"] = weight
        else:
            renamed[f"{outside[first]}.{rest}"] = weight
    return renamed
