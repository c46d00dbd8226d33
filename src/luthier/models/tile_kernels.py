"""What blocks of decoders and encoders compute besides their large products on a processor with matrix tiles, in compiled code (tile_kernels.cpp): attention within rows of any length, also of rows that share a prefix."""

from __future__ import annotations

import ctypes
import functools
from ctypes import Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import LuthierError
from luthier.models import shared_library
from luthier.models.decoder_kernels import DecoderKernels, Heads
from luthier.models.dropout import columns, least_kept, scale_kept
from luthier.models.packing import Packing, RowPlaces

NAME, SOURCE = "tiles", Path(__file__).with_name("tile_kernels.cpp")


class _Rows(Structure):
    _fields_ = [*((name, c_void_p) for name in ("starts", "before", "places", "meetings", "met")), ("rows", c_int64), ("tokens", c_int64)]


class KeyedDropout(Structure):
    """As the compiled code reads it."""

    _fields_ = [("keys", c_void_p), ("columns", c_void_p), ("factor", c_float), ("least", c_int32)]


class _Attention(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("heads", "key_heads", "width", "causal")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("scale", c_float),
        ("drops", KeyedDropout),
        ("head_keys", c_void_p),
    ]


@dataclass(frozen=True)
class Drops:
    """Dropout of rows, each by its key.

    Args:
        keys: of each row, int32, # (rows,)
        width: numbers of a row at most.
        probability: share that is dropped, 0 < p < 1.
        dtype: that what is kept is multiplied in: its factor is rounded to that.
    """

    keys: Tensor
    width: int
    probability: float
    dtype: torch.dtype = torch.bfloat16

    @cached_property
    def _columns(self) -> Tensor:
        return columns(-(-self.width // 32) * 16)

    def plain(self) -> KeyedDropout:
        """As the compiled code reads it."""
        factor = float(torch.tensor(scale_kept(self.probability), dtype=self.dtype))
        return KeyedDropout(self.keys.data_ptr(), self._columns.data_ptr(), factor, least_kept(self.probability))


NOTHING_DROPS = KeyedDropout(None, None, 1.0, 0)


@dataclass(frozen=True)
class TileHeads(Heads):
    """How attention goes through a stream of rows that may share a prefix.

    Args:
        rows: where their tokens lie.
        causal: whether a token sees only those before it.
        drops: of the probabilities, by the keys of the stream's tokens.
        head_keys: of each head, int32, # (heads,)
    """

    rows: RowPlaces
    causal: bool = True
    drops: Drops | None = None
    head_keys: Tensor | None = None

    def tiles(self) -> tuple[_Rows, _Attention]:
        """As the compiled code reads it; angles that are empty turn nothing."""
        rows = self.rows
        places = (each.data_ptr() for each in (rows.starts, rows.before, rows.places, rows.meetings, rows.met))
        turned = (self.cos.data_ptr() or None, self.sin.data_ptr() or None, self.scale)
        drops = (NOTHING_DROPS, None) if self.drops is None or self.head_keys is None else (self.drops.plain(), self.head_keys.data_ptr())
        attention = _Attention(self.heads, self.key_heads, self.width, self.causal, *turned, *drops)
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

    def plan(
        self, packing: Packing, window: int, cos: Tensor, sin: Tensor, heads: tuple[int, int], width: int, scale: float
    ) -> Heads | None:
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
        self, x: Tensor, rest: Tensor, drops: Drops | None, weight: Tensor, bias: Tensor, eps: float
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
        places = (byref(drops.plain() if drops else NOTHING_DROPS), _at(weight), _at(bias), eps, _at(total), _at(said), _at(factors))
        self._tiles.luthier_add_norm(_at(x), _at(rest), *places, *x.shape, _threads())
        return total, said, factors

    def add_norm_backward(
        self, d_said: Tensor, total: Tensor, factors: Tensor, drops: Drops | None, weight: Tensor
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
        places = (byref(drops.plain() if drops else NOTHING_DROPS), _at(weight), _at(d_rest), _at(d_x))
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


def can_be_had() -> bool:
    """Whether this process may use the tiles and there is code for them; it is compiled first where it is not kept, in some seconds."""
    try:
        TileKernels()
    except LuthierError:
        return False
    return True


def are_faster() -> bool:
    """Whether the processor has matrix tiles, and code for them can be had."""
    return torch.cpu._is_amx_tile_supported() and can_be_had()


OWN = shared_library.OwnKernels("bfloat16", are_faster)
"""An encoder from scratch."""


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
        "gelu": [place, place, c_int64, c_int],
        "gelu_backward": [*[place] * 4, c_int64, c_int],
        "add_norm": [*[place] * 5, c_float, *[place] * 3, c_int64, c_int64, c_int],
        "add_norm_backward": [*[place] * 7, c_int64, c_int64, c_int],
        "norm_weights_backward": [*[place] * 5, c_int64, c_int64, c_int],
        "column_sums": [place, c_int64, place, c_int64, c_int64, c_int],
    }
    for name, arguments in takes.items():
        function = getattr(library, f"luthier_{name}")
        function.argtypes, function.restype = arguments, None
    library.luthier_open_tiles.restype = c_int
    if library.luthier_open_tiles():
        raise OSError("the system does not give this process its tiles")
    return library
