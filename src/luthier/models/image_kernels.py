"""Batch norm with its rectifier, max pooling and the windows of convolutions, of maps that lie channels last, in compiled code (image_kernels.cpp): compiled once for a machine, kept beside the models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models import shared_library

NAME, SOURCE = "images", Path(__file__).with_name("image_kernels.cpp")
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""That maps may have, and what the functions for them are called by."""


class _Windows(Structure):
    _fields_ = [(name, c_int64) for name in ("images", "height", "width", "channels", "kernel", "stride", "padding", "high", "wide")]


@dataclass(frozen=True)
class Statistics:
    """What a batch norm found in its maps, each # (channels,) fp32

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
        self, maps: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor, eps: float, floor: float, ceiling: float
    ) -> tuple[Tensor, Statistics]:
        """Maps by their own mean and variance, with what goes past the norm added to them, within bounds.

        Args:
            maps: channels last, # (examples, channels, height, width)
            past: the same, or None.
            weight: of the norm, # (channels,) fp32
            bias: # (channels,) fp32
            eps: keeps the division finite.
            floor: below it nothing is said; minus infinity where there is no rectifier.
            ceiling: nor above it.

        Returns:
            what is said, as the maps, and what was found in them
        """
        output, found = torch.empty_like(maps), torch.empty(5, len(weight))
        self._call(
            "norm", maps.dtype, _at(maps), None if past is None else _at(past), _at(weight), _at(bias), eps, floor, ceiling, _at(output),
            *map(_at, found), maps.numel() // len(weight), len(weight),
        )  # fmt: skip
        return output, Statistics(*found)

    def norm_backward(
        self, d_output: Tensor, maps: Tensor, output: Tensor | None, found: Statistics, floor: float, ceiling: float, learning: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The gradients of `norm`'s maps, of what went past, of weight and of bias.

        Args:
            d_output: the gradient of what was said, channels last.
            maps: as given there.
            output: what was said, where something went past; None where nothing did.
            found: as returned there.
            floor: as there.
            ceiling: as there.
            learning: whether the maps need a gradient.
        """
        d_maps = torch.empty_like(maps) if learning else None
        d_past = torch.empty_like(maps) if output is not None else None
        channels = len(found.mean)
        d_weight, d_bias = torch.empty(channels), torch.empty(channels)
        places = [None if each is None else _at(each) for each in (output, d_maps, d_past)]
        self._call(
            "norm_backward", maps.dtype, _at(d_output), _at(maps), places[0], _at(found.mean), _at(found.inverse), _at(found.scale), _at(found.offset),
            floor, ceiling, places[1], places[2], _at(d_weight), _at(d_bias), maps.numel() // channels, channels,
        )  # fmt: skip
        return d_maps, d_past, d_weight, d_bias

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
            d_output: the gradient of what was said, channels last.
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
        """What a convolution reads for each place that it says something of, zero beyond the maps, # (examples × places, kernel × kernel × channels)

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
        """The gradient of the maps that `windows` reads, from that of what it says; their numbers are not read."""
        d_maps = torch.empty_like(maps)
        shape = _windows(maps, sides_of(maps, kernel, stride, padding), kernel, stride, padding)
        self._call("windows_backward", maps.dtype, _at(d_read), byref(shape), _at(d_maps))
        return d_maps

    def _call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        getattr(self._library, f"luthier_{name}_{DTYPES[dtype]}")(*arguments, torch.get_num_threads())


@functools.cache
def load() -> ImageKernels:
    """The compiled code; compiled first where it is not kept.

    Raises:
        LuthierError: there is no compiler, or it failed.
    """
    return ImageKernels()


def can_be_had() -> bool:
    """Whether there is compiled code for this machine; it is compiled first where it is not kept, in some seconds."""
    return shared_library.can_be_had(NAME, SOURCE)


def are_kept() -> bool:
    """Whether the code for this machine need not be compiled any more."""
    return shared_library.library_file(NAME, SOURCE).is_file()


OWN = shared_library.OwnKernels(tuple(DTYPES.values()), can_be_had, are_kept)
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
