"""Batch norm with the residual and the ReLU behind it, max pooling, and the windows that convolutions read, of feature maps that lie channels last, in compiled code (image_kernels.cpp)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels import shared_library

NAME, SOURCE = "images", Path(__file__).with_name("image_kernels.cpp")
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""That maps may have, and what the functions for them are called by."""


class _Windows(Structure):
    _fields_ = [(name, c_int64) for name in ("images", "height", "width", "channels", "kernel", "stride", "padding", "high", "wide")]


@dataclass(frozen=True)
class Statistics:
    """The statistics of a batch norm's maps, each # (channels,) fp32

    Args:
        mean: of each channel.
        variance: the mean squared distance from it.
        inverse: 1 / sqrt(variance + eps)
        scale: with `offset`, what a number of the maps becomes: number × scale + offset.
        offset: see there.
    """

    mean: Tensor
    variance: Tensor
    inverse: Tensor
    scale: Tensor
    offset: Tensor


class ImageKernels:
    """The compiled code; on any number of threads the same bits.

    Raises:
        LuthierError: it cannot be had.
    """

    def __init__(self) -> None:
        self._library = shared_library.load(NAME, SOURCE, _open)

    def norm(
        self, maps: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, floor: float, ceiling: float
    ) -> tuple[Tensor, Statistics]:
        """Batch norm in training, plus a residual, clamped.

        Args:
            maps: channels last, # (examples, channels, height, width)
            residual: what is added behind the norm, as the maps, or None.
            weight: of the norm, # (channels,) fp32
            bias: # (channels,) fp32
            eps: keeps the division finite.
            floor: outputs are at least this: 0 with a ReLU, minus infinity without.
            ceiling: outputs are at most this: 6 with a ReLU6, else infinity.

        Returns:
            the output, as the maps, and the statistics
        """
        output, found = torch.empty_like(maps), torch.empty(5, len(weight))
        self._call(
            "norm", maps.dtype, _at(maps), None if residual is None else _at(residual), _at(weight), _at(bias), eps, floor, ceiling, _at(output),
            *map(_at, found), maps.numel() // len(weight), len(weight),
        )  # fmt: skip
        return output, Statistics(*found)

    def norm_backward(
        self, d_output: Tensor, maps: Tensor, output: Tensor | None, found: Statistics, floor: float, ceiling: float, learning: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The gradients of the maps of `norm`, of the residual, of weight and of bias.

        Args:
            d_output: the gradient of the output, channels last.
            maps: as given there.
            output: as returned there, where a residual was added, else None.
            found: as returned there.
            floor: as there.
            ceiling: as there.
            learning: whether the maps need a gradient.
        """
        d_maps = torch.empty_like(maps) if learning else None
        d_residual = torch.empty_like(maps) if output is not None else None
        channels = len(found.mean)
        d_weight, d_bias = torch.empty(channels), torch.empty(channels)
        places = [None if each is None else _at(each) for each in (output, d_maps, d_residual)]
        self._call(
            "norm_backward", maps.dtype, _at(d_output), _at(maps), places[0], _at(found.mean), _at(found.inverse), _at(found.scale), _at(found.offset),
            floor, ceiling, places[1], places[2], _at(d_weight), _at(d_bias), maps.numel() // channels, channels,
        )  # fmt: skip
        return d_maps, d_residual, d_weight, d_bias

    def pool(self, maps: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        """The largest number of each window, and its place within the window.

        Args:
            maps: channels last, # (examples, channels, height, width)
            kernel: side of a window.
            stride: from one window to the next.
            padding: around the maps, which is never the largest; at most half of the kernel.
        """
        sides = sides_of(maps, kernel, stride, padding)
        output = torch.empty(*maps.shape[:2], *sides, dtype=maps.dtype, memory_format=torch.channels_last)
        chosen = torch.empty(output.numel(), dtype=torch.uint8)
        shape = _windows(maps, output.shape[2:], kernel, stride, padding)
        self._call("pool", maps.dtype, _at(maps), byref(shape), _at(output), _at(chosen))
        return output, chosen

    def pool_backward(self, d_output: Tensor, chosen: Tensor, maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        """The gradient of `pool`'s maps.

        Args:
            d_output: the gradient of the output, channels last.
            chosen: as returned there.
            maps: like those given there; their numbers are not read.
            kernel: as there.
            stride: as there.
            padding: as there.
        """
        d_maps = torch.empty_like(maps)
        shape = _windows(maps, d_output.shape[2:], kernel, stride, padding)
        self._call("pool_backward", maps.dtype, _at(d_output), _at(chosen), byref(shape), _at(d_maps))
        return d_maps

    def windows(self, maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        """What a convolution reads for each place of its output (im2col), zero beyond the maps, # (examples × places, kernel × kernel × channels)

        Args:
            maps: channels last, # (examples, channels, height, width)
            kernel: side of a window.
            stride: from one window to the next.
            padding: around the maps.
        """
        sides = sides_of(maps, kernel, stride, padding)
        read = torch.empty(len(maps) * sides[0] * sides[1], kernel * kernel * maps.shape[1], dtype=maps.dtype)
        self._call("windows", maps.dtype, _at(maps), byref(_windows(maps, sides, kernel, stride, padding)), _at(read))
        return read

    def windows_backward(self, d_read: Tensor, maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        """The gradient of the maps that `windows` reads, from that of what it returns (col2im); their numbers are not read."""
        d_maps = torch.empty_like(maps)
        shape = _windows(maps, sides_of(maps, kernel, stride, padding), kernel, stride, padding)
        self._call("windows_backward", maps.dtype, _at(d_read), byref(shape), _at(d_maps))
        return d_maps

    def _call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        getattr(self._library, f"luthier_{name}_{DTYPES[dtype]}")(*arguments, torch.get_num_threads())


OWN = shared_library.CompiledCode(tuple(DTYPES.values()), ImageKernels, lambda: shared_library.is_kept(NAME, SOURCE))
"""What lies between the convolutions of a network for images."""


def sides_of(maps: Tensor, kernel: int, stride: int, padding: int) -> list[int]:
    """How many windows lie in maps, downwards and across; see `ImageKernels.pool`."""
    return [(side + 2 * padding - kernel) // stride + 1 for side in maps.shape[2:]]


def _windows(maps: Tensor, sides: Sequence[int], kernel: int, stride: int, padding: int) -> _Windows:
    images, channels, height, width = maps.shape
    return _Windows(images, height, width, channels, kernel, stride, padding, *sides)


_at = Tensor.data_ptr


@functools.cache
def _open(file: Path) -> Any:
    place, count, number = c_void_p, c_int64, c_float
    takes = {
        "norm": [*[place] * 4, number, number, number, *[place] * 6, count, count],
        "norm_backward": [*[place] * 7, number, number, *[place] * 4, count, count],
        "pool": [*[place] * 4],
        "pool_backward": [*[place] * 4],
        "windows": [*[place] * 3],
        "windows_backward": [*[place] * 3],
    }
    return shared_library.declare(file, {f"{name}_{dtype}": given for name, given in takes.items() for dtype in DTYPES.values()})
