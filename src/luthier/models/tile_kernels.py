"""What a decoder computes besides its large products on a processor with matrix tiles, in compiled code (tile_kernels.cpp): attention within rows of any length, also of rows that share a prefix."""

from __future__ import annotations

import ctypes
import functools
from ctypes import Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models import shared_library
from luthier.models.decoder_kernels import DecoderKernels, Heads
from luthier.models.packing import Packing, RowPlaces

NAME, SOURCE = "tiles", Path(__file__).with_name("tile_kernels.cpp")


class _Rows(Structure):
    _fields_ = [*((name, c_void_p) for name in ("starts", "before", "places", "meetings", "met")), ("rows", c_int64), ("tokens", c_int64)]


class _Attention(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("heads", "key_heads", "width", "causal")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("scale", c_float),
        *((name, c_void_p) for name in ("keys", "columns", "head_keys")),
        ("kept", c_float),
        ("threshold", c_int32),
    ]


@dataclass(frozen=True)
class TileHeads(Heads):
    """How attention goes through a stream of rows that may share a prefix.

    Args:
        rows: where their tokens lie.
    """

    rows: RowPlaces

    def tiles(self) -> tuple[_Rows, _Attention]:
        """As the compiled code reads it."""
        rows = self.rows
        places = (each.data_ptr() for each in (rows.starts, rows.before, rows.places, rows.meetings, rows.met))
        turned = (self.cos.data_ptr(), self.sin.data_ptr(), self.scale)
        attention = _Attention(self.heads, self.key_heads, self.width, True, *turned, None, None, None, 1.0, 0)
        return _Rows(*places, len(rows.before), rows.stream), attention


class TileKernels(DecoderKernels):
    """The kernels of a processor with matrix tiles; on any number of threads the same bits.

    Raises:
        LuthierError: the compiled code cannot be had.
    """

    keeps_norms = False

    def __init__(self) -> None:
        super().__init__()
        self._tiles = shared_library.load(NAME, SOURCE, _open)

    def plan(self, packing: Packing, window: int, cos: Tensor, sin: Tensor, heads: tuple[int, int], width: int, scale: float) -> Heads | None:
        """See `DecoderKernels.plan`."""
        rows = packing.rows
        if rows is None or not packing.causal or packing.dropout or 0 < window < rows.longest:
            return None
        return TileHeads(rows.starts, cos.contiguous(), sin.contiguous(), *heads, width, scale, rows)

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

    def attention(self, given: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """See `DecoderKernels.attention`."""
        assert isinstance(heads, TileHeads)
        tokens = len(given)
        said, total = torch.empty(tokens, heads.heads * heads.width, dtype=given.dtype), torch.empty(tokens, heads.heads)
        said[tokens - heads.rows.padding :] = 0
        rows, attention = heads.tiles()
        self._tiles.luthier_attention(_at(given), byref(rows), byref(attention), _at(said), _at(total), _threads())
        return said, total

    def attention_gradient(self, given: Tensor, heads: Heads, said: Tensor, total: Tensor, d_said: Tensor) -> Tensor:
        """See `DecoderKernels.attention_gradient`."""
        assert isinstance(heads, TileHeads)
        d_said, d_given = d_said.contiguous(), torch.empty_like(given)
        d_given[len(given) - heads.rows.padding :] = 0
        rows, attention = heads.tiles()
        places = map(_at, (said, total, d_said, d_given))
        self._tiles.luthier_attention_backward(_at(given), byref(rows), byref(attention), *places, _threads())
        return d_given


_at = Tensor.data_ptr
_threads = torch.get_num_threads


@functools.cache
def _open(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    place = c_void_p
    takes: dict[str, list[Any]] = {
        "attention": [*[place] * 5, c_int],
        "attention_backward": [*[place] * 7, c_int],
        "transpose": [place, c_int64, place, c_int64, c_int64, c_int],
    }
    for name, arguments in takes.items():
        function = getattr(library, f"luthier_{name}")
        function.argtypes, function.restype = arguments, None
    library.luthier_open_tiles.restype = c_int
    if library.luthier_open_tiles():
        raise OSError("the system does not give this process its tiles")
    return library
