"""A step of CBOW, and AdaGrad on the rows of a table, in compiled code (word_kernels.cpp): compiled once for a machine, kept beside the models."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels import shared_library

NAME, SOURCE = "words", Path(__file__).with_name("word_kernels.cpp")
SHARING = 64
"""Words that share their negative samples, as compiled."""


class _Windows(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("words", "left", "right", "noise")),
        *((name, c_int32) for name in ("groups", "samples", "reach")),
        ("negatives", c_float),
    ]


class _Gradient(Structure):
    _fields_ = [("rows", c_void_p), ("values", c_void_p), ("count", c_int64)]


@dataclass(frozen=True)
class RowGradient:
    """A table's gradient at the rows that were read.

    Args:
        rows: ascending, each once, # (rows,)
        values: # (rows, width)
    """

    rows: Tensor
    values: Tensor


class WordKernels:
    """The compiled code; on any number of threads the same bits.

    Raises:
        LuthierError: it cannot be had.
    """

    def __init__(self) -> None:
        self._library = shared_library.load(NAME, SOURCE, _open)

    def cbow(
        self, inputs: Tensor, outputs: Tensor, words: Tensor, left: Tensor, right: Tensor, noise: Tensor, negatives: float, reach: int
    ) -> tuple[float, int, RowGradient, RowGradient]:
        """The loss of words against the mean of their windows, and of their negative samples, with its gradients.

        Args:
            inputs: of which means are taken, fp32, # (vocabulary, width)
            outputs: of the words that are guessed, and of the samples, fp32, # (vocabulary, width)
            words: `reach` more on either side, int64, # (reach + words + reach,)
            left: words of each word's window before it, int32, # (words,)
            right: those behind it, int32, # (words,)
            noise: negative samples of each `SHARING` words, int64, # (groups, samples)
            negatives: that a word is contrasted with.
            reach: of the widest window, to either side.

        Returns:
            the summed loss, the words that have a window, and the gradients at `inputs` and at `outputs`
        """
        vocabulary, width = inputs.shape
        groups, samples = noise.shape
        held = [tensor.contiguous() for tensor in (words, left, right, noise)]
        windows = _Windows(*(tensor.data_ptr() for tensor in held), groups, samples, reach, negatives)
        gradients = [_empty(min(vocabulary, most), width) for most in (len(words), groups * (SHARING + samples))]
        places = [_Gradient(each.rows.data_ptr(), each.values.data_ptr(), 0) for each in gradients]
        told = c_int64(0)
        loss = self._library.luthier_cbow(
            inputs.data_ptr(), outputs.data_ptr(), vocabulary, width, byref(windows), byref(places[0]), byref(places[1]), byref(told),
            torch.get_num_threads(),
        )  # fmt: skip
        at_inputs, at_outputs = (
            RowGradient(each.rows[: place.count], each.values[: place.count]) for each, place in zip(gradients, places, strict=True)
        )
        return loss, told.value, at_inputs, at_outputs

    def adagrad_(self, table: Tensor, squares: Tensor, gradient: RowGradient, rate: float, eps: float) -> None:
        """Move some rows of a table by AdaGrad, in place.

        Args:
            table: fp32, # (vocabulary, width)
            squares: the squared gradients so far, in place, # (vocabulary, width)
            gradient: of this step.
            rate: the learning rate.
            eps: keeps the division finite.
        """
        count, width = gradient.values.shape
        self._library.luthier_adagrad(
            table.data_ptr(), squares.data_ptr(), gradient.rows.contiguous().data_ptr(), gradient.values.contiguous().data_ptr(), count, width,
            rate, eps, torch.get_num_threads(),
        )  # fmt: skip


OWN = shared_library.CompiledCode(("float32",), WordKernels, lambda: shared_library.is_kept(NAME, SOURCE))
"""A step of CBOW."""


def _empty(most: int, width: int) -> RowGradient:
    return RowGradient(torch.empty(most, dtype=torch.int64), torch.empty(most, width))


@functools.cache
def _open(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    tables, gradient = [c_void_p, c_void_p], POINTER(_Gradient)
    library.luthier_cbow.argtypes = [*tables, c_int64, c_int, POINTER(_Windows), gradient, gradient, POINTER(c_int64), c_int]
    library.luthier_cbow.restype = c_double
    library.luthier_adagrad.argtypes = [*tables, c_void_p, c_void_p, c_int64, c_int, c_float, c_float, c_int]
    library.luthier_adagrad.restype = None
    return library
