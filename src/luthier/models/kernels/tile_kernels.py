"""What blocks of decoders and encoders compute besides their large products on a processor with matrix tiles, in compiled code (tile_kernels.cpp): attention within rows of any length, also of rows that share a prefix."""

from __future__ import annotations

import functools
from ctypes import Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.dropout import RowDropout, head_keys
from luthier.models.kernels import shared_library
from luthier.models.kernels.decoder_kernels import DecoderKernels, Heads
from luthier.models.packing import Packing, RowPlaces

NAME, SOURCE = "tiles", Path(__file__).with_name("tile_kernels.cpp")


class _Rows(Structure):
    _fields_ = [*((name, c_void_p) for name in ("starts", "before", "places", "meetings", "met")), ("rows", c_int64), ("tokens", c_int64)]


class _KeyedDropout(Structure):
    _fields_ = [("keys", c_void_p), ("columns", c_void_p), ("factor", c_float), ("least", c_int32)]


class _Attention(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("heads", "key_heads", "width", "causal")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("scale", c_float),
        ("drops", _KeyedDropout),
        ("head_keys", c_void_p),
    ]


class TileKernels(DecoderKernels):
    """The kernels of a processor with matrix tiles; on any number of threads the same bits.

    Raises:
        LuthierError: the compiled code cannot be had.
    """

    keeps_norms = False

    def __init__(self) -> None:
        super().__init__()
        self._tiles = shared_library.load(NAME, SOURCE, _open)

    def knows(self, packing: Packing, window: int, width: int) -> bool:
        """See `DecoderKernels.knows`: here rows may be of any length, share a prefix, see both ways, and drop probabilities where they do."""
        return not packing.causal or not (packing.dropout or 0 < window < packing.rows.longest)

    def transpose(self, values: Tensor) -> Tensor:
        """The transpose, contiguous, # (tokens, width) → (width, tokens)"""
        values = values if values.stride(1) == 1 else values.contiguous()
        turned = torch.empty(values.shape[1], len(values), dtype=values.dtype)
        self._tiles.luthier_transpose(_at(values), values.stride(0), _at(turned), *values.shape, _threads())
        return turned

    def weight_gradient(self, d_said: Tensor, x: Tensor) -> Tensor:
        """See `DecoderKernels.weight_gradient`: a product whose left factor lies the other way takes twice as long, so the narrower side is turned first."""
        if d_said.shape[1] <= x.shape[1]:
            return self.transpose(d_said) @ x
        return self.transpose(self.transpose(x) @ d_said)

    def _attend(self, heads: Heads, *tensors: Tensor) -> None:
        """See `DecoderKernels._attend`."""
        self._tiles.luthier_attention(
            _at(tensors[0]), byref(_rows(heads.rows)), byref(_attention(heads)), *map(_at, tensors[1:]), _threads()
        )

    def _attend_backward(self, heads: Heads, *tensors: Tensor) -> None:
        """See `DecoderKernels._attend_backward`."""
        how = byref(_rows(heads.rows)), byref(_attention(heads))
        self._tiles.luthier_attention_backward(_at(tensors[0]), *how, *map(_at, tensors[1:]), _threads())

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (Hendrycks & Gimpel 2016), # (tokens, inner)"""
        said = torch.empty_like(x)
        self._tiles.luthier_gelu(_at(x), _at(said), x.numel(), _threads())
        return said

    def gelu_backward(self, x: Tensor, d_said: Tensor) -> tuple[Tensor, Tensor]:
        """What `gelu` said, computed again, and the gradient of what it read, each # (tokens, inner)"""
        said, d_x = torch.empty_like(x), torch.empty_like(x)
        self._tiles.luthier_gelu_backward(_at(x), _at(d_said), _at(said), _at(d_x), x.numel(), _threads())
        return said, d_x

    def add_norm(
        self, x: Tensor, rest: Tensor, drops: RowDropout | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer norm (Ba et al. 2016) of a sum, of which dropout has left a part.

        Args:
            x: what dropout acts on, # (tokens, width)
            rest: what is added, # (tokens, width)
            drops: None where nothing is dropped.
            weight: of the norm, # (width,)
            bias: # (width,)
            eps: keeps the division finite.

        Returns:
            the sum and its norm, each # (tokens, width), and of each row the mean and what it was multiplied by, # (tokens, 2) fp32
        """
        total, said, factors = torch.empty_like(x), torch.empty_like(x), torch.empty(len(x), 2)
        places = (byref(_dropout(drops)), _at(weight), _at(bias), eps, _at(total), _at(said), _at(factors))
        self._tiles.luthier_add_norm(_at(x), _at(rest), *places, *x.shape, _threads())
        return total, said, factors

    def add_norm_backward(
        self, d_said: Tensor, total: Tensor, factors: Tensor, drops: RowDropout | None, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of what dropout acted on in `add_norm` and of what was added, each # (tokens, width)

        Args:
            d_said: of the norm, # (tokens, width)
            total: the sum.
            factors: the last of what `add_norm` returned.
            drops: as there.
            weight: as there.
        """
        d_rest = torch.empty_like(total)
        d_x = torch.empty_like(total) if drops else d_rest
        places = (byref(_dropout(drops)), _at(weight), _at(d_rest), _at(d_x))
        self._tiles.luthier_add_norm_backward(_at(d_said), _at(total), _at(factors), *places, *total.shape, _threads())
        return d_x, d_rest

    def norm_weights_backward(self, d_said: Tensor, total: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the weight and the bias of `add_norm`, each # (width,) fp32"""
        d_weight, d_bias = torch.empty(total.shape[1]), torch.empty(total.shape[1])
        self._tiles.luthier_norm_weights_backward(*map(_at, (d_said, total, factors, d_weight, d_bias)), *total.shape, _threads())
        return d_weight, d_bias

    def column_sums(self, values: Tensor) -> Tensor:
        """The sum of each column, # (tokens, width) → (width,) fp32"""
        sums = torch.empty(values.shape[1])
        self._tiles.luthier_column_sums(_at(values), values.stride(0), _at(sums), *values.shape, _threads())
        return sums


def _rows(rows: RowPlaces) -> _Rows:
    """As the compiled code reads it, like those below."""
    places = (each.data_ptr() for each in (rows.starts, rows.before, rows.places, rows.meetings, rows.met))
    return _Rows(*places, len(rows.before), rows.stream)


def _attention(of: Heads) -> _Attention:
    angles = (None if each is None else each.data_ptr() for each in (of.cos, of.sin))
    return _Attention(of.heads, of.key_heads, of.width, of.causal, *angles, of.scale, _dropout(of.drops), head_keys(of.heads).data_ptr())


def _dropout(drops: RowDropout | None) -> _KeyedDropout:
    if drops is None:
        return _KeyedDropout(None, None, 1.0, 0)
    return _KeyedDropout(drops.keys.data_ptr(), drops.columns.data_ptr(), drops.factor(torch.bfloat16), drops.least)


_at = Tensor.data_ptr
_threads = torch.get_num_threads


@functools.cache
def _open(file: Path) -> Any:
    place, count = c_void_p, c_int64
    library = shared_library.declare(
        file,
        {
            "attention": [*[place] * 5],
            "attention_backward": [*[place] * 7],
            "transpose": [place, count, place, count, count],
            "gelu": [place, place, count],
            "gelu_backward": [*[place] * 4, count],
            "add_norm": [*[place] * 5, c_float, *[place] * 3, count, count],
            "add_norm_backward": [*[place] * 7, count, count],
            "norm_weights_backward": [*[place] * 5, count, count],
            "column_sums": [place, count, place, count, count],
        },
    )
    library.luthier_open_tiles.restype = c_int
    if library.luthier_open_tiles():
        raise OSError("the system does not give this process its tiles")
    return library
