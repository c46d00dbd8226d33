"""The small residual networks for images of 32 pixels that were made for CIFAR-10: 20 to 56 layers, 0.3 to 0.9 million parameters.

Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2: where a stage begins, its input is halved by leaving out every other
pixel, and new channels are zero. transformers' ResNet puts a convolution there, and begins with a larger one, so it cannot hold these weights.
"""

from __future__ import annotations

from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from luthier.models.image_stages import StagedNetwork
from luthier.models.kernels.fused_maps import RELU, norm_add_clamp

SIDE = 32
WIDTHS = (16, 32, 64)
"""Channels of each stage."""
VARIANTS = {"cifar-resnet20": 3, "cifar-resnet32": 5, "cifar-resnet44": 7, "cifar-resnet56": 9}
"""Blocks of each stage, of two convolutions each."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of a pixel from 0 to 1, as whoever published the weights trained them."""


class CifarResNetConfig(PreTrainedConfig):
    """How deep the network is.

    Args:
        depths: blocks of each stage.
        hidden_sizes: channels of each stage.
        image_size: side of the images that it was trained on.
        num_channels: 3, for it reads coloured images.
    """

    model_type = "cifar_resnet"

    def __init__(
        self,
        depths: tuple[int, ...] | list[int] = (3, 3, 3),
        hidden_sizes: tuple[int, ...] | list[int] = WIDTHS,
        image_size: int = SIDE,
        num_channels: int = 3,
        **more: Any,
    ) -> None:
        self.depths, self.hidden_sizes, self.image_size, self.num_channels = list(depths), list(hidden_sizes), image_size, num_channels
        self.hidden_size = self.hidden_sizes[-1]
        super().__init__(**more)


def config_of(name: str) -> CifarResNetConfig:
    """The configuration of a variant, of CIFAR-10's classes.

    Args:
        name: a key of `VARIANTS`.
    """
    return CifarResNetConfig([VARIANTS[name]] * len(WIDTHS), num_labels=10)


class BasicBlock(nn.Module):
    """Two convolutions, whose output the input is added to.

    Args:
        wide: channels that come in.
        out: channels that go out; more than come in where a stage begins, which halves the sides.
    """

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if wide == out else (2, out - wide)
        self.conv1 = nn.Conv2d(wide, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, maps: Tensor) -> Tensor:
        """# (examples, channels, height, width)"""
        inner, residual = norm_add_clamp(self.bn1, self.conv1(maps), bounds=RELU), maps
        if self.more:
            residual = functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return norm_add_clamp(self.bn2, self.conv2(inner), residual, bounds=RELU)


class CifarResNet(StagedNetwork):
    """See the module.

    Args:
        config: how deep it is.
    """

    config_class = CifarResNetConfig

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv2d(config.num_channels, config.hidden_sizes[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.hidden_sizes[0])
        self.stages = nn.ModuleList()
        wide = config.hidden_sizes[0]
        for depth, out in zip(config.depths, config.hidden_sizes, strict=True):
            self.stages.append(nn.Sequential(*(BasicBlock(wide if not number else out, out) for number in range(depth))))
            wide = out
        self.classifier = nn.Linear(wide, config.num_labels or 1)
        self.post_init()

    def stem_maps(self, pixels: Tensor) -> Tensor:
        """What the first convolution makes of images, # (examples, channels, height, width)"""
        return norm_add_clamp(self.bn1, self.conv1(pixels), bounds=RELU)


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as their file names them, under our names.

    Args:
        state: name → weight; the names begin with "module."
    """
    names = {"linear": "classifier", "layer1": "stages.0", "layer2": "stages.1", "layer3": "stages.2"}
    renamed = {}
    for name, weight in state.items():
        first, _, rest = name.removeprefix("module.").partition(".")
        renamed[f"{names.get(first, first)}.{rest}"] = weight
    return renamed
