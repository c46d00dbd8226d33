"""What a decoder computes between its large products, in bf16 on a processor, in compiled code (decoder_kernels.cpp): compiled once for a machine in seconds, kept beside the models."""

from __future__ import annotations

import functools
from ctypes import Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.dropout import RowDropout
from luthier.models.kernels import shared_library
from luthier.models.packing import Packing, RowPlaces

NAME, SOURCE = "decoder", Path(__file__).with_name("decoder_kernels.cpp")
LONGEST = 256
"""Tokens of a row whose attention is computed here: its scores stay in a processor's caches."""
WIDEST = 128
"""Numbers of a head, likewise."""


class _Heads(Structure):
    _fields_ = [
        ("starts", c_void_p),
        *((name, c_int64) for name in ("rows", "heads", "key_heads", "width")),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("scale", c_float),
    ]


@dataclass(frozen=True)
class Heads:
    """How attention goes through a stream of rows.

    Args:
        rows: where their tokens lie.
        heads: of queries.
        key_heads: of keys and values; a divisor of `heads`.
        width: of a head.
        scale: of the scores.
        cos: of each token's angles, the second half as the first, bf16, # (tokens, width) or None: nothing is rotated
        sin: the same.
        causal: whether a token sees only those before it.
        drops: of the probabilities, by the keys of the stream's tokens; None: nothing is dropped.
    """

    rows: RowPlaces
    heads: int
    key_heads: int
    width: int
    scale: float
    cos: Tensor | None
    sin: Tensor | None
    causal: bool = True
    drops: RowDropout | None = None


class DecoderKernels:
    """The kernels, each under the name that it has in `models.kernels.plain`, and attention within short rows; on any number of threads the same bits.

    Raises:
        LuthierError: the compiled code cannot be had.
    """

    dtype = torch.bfloat16
    keeps_norms = True
    """Whether what a norm says waits for the way back, or is computed again."""

    def __init__(self) -> None:
        self._library = shared_library.load(NAME, SOURCE, _open)

    def fits(self, head_width: int) -> bool:
        """Whether heads of this width can be rotated."""
        return head_width % 2 == 0

    def rms_norm(self, x: Tensor, weight: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """See `kernels.rms_norm`."""
        x, said, factor = x.contiguous(), torch.empty(x.shape, dtype=x.dtype), torch.empty(len(x), 1)
        self._library.luthier_rms_norm(_at(x), _at(weight), _at(eps), _at(said), _at(factor), *x.shape, _threads())
        return said, factor

    def rms_norm_backward(self, d_said: Tensor, x: Tensor, weight: Tensor, factor: Tensor, more: Tensor | None = None) -> Tensor:
        """See `kernels.rms_norm_backward`; `more` is added to the gradient, as it: of what went past the norm."""
        d_said, d_x = d_said.contiguous(), torch.empty_like(x)
        given = (d_said, x, weight, factor)
        self._library.luthier_rms_norm_backward(*map(_at, given), None if more is None else _at(more), _at(d_x), *x.shape, _threads())
        return d_x

    def rms_norm_weight_backward(self, d_said: Tensor, x: Tensor, factor: Tensor) -> Tensor:
        """See `kernels.rms_norm_weight_backward`."""
        d_said, d_weight = d_said.contiguous(), torch.empty(x.shape[1])
        self._library.luthier_rms_norm_weight_backward(_at(d_said), _at(x), _at(factor), _at(d_weight), *x.shape, _threads())
        return d_weight

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """See `kernels.swiglu`."""
        gate, up = gate.contiguous(), up.contiguous()
        said = torch.empty_like(gate)
        self._library.luthier_swiglu(_at(gate), _at(up), _at(said), gate.numel(), _threads())
        return said

    def swiglu_backward(self, gate: Tensor, up: Tensor, d_said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `kernels.swiglu_backward`."""
        gate, up, d_said = gate.contiguous(), up.contiguous(), d_said.contiguous()
        said, d_gate, d_up = torch.empty_like(gate), torch.empty_like(gate), torch.empty_like(gate)
        self._library.luthier_swiglu_backward(*map(_at, (gate, up, d_said, said, d_gate, d_up)), gate.numel(), _threads())
        return said, d_gate, d_up

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor, factor: Tensor) -> Tensor:
        """See `kernels.rotary`."""
        tokens, heads, width = x.shape
        x = x if x.stride(2) == 1 and x.stride(1) == width else x.contiguous()
        cos, sin, said = cos.contiguous(), sin.contiguous(), torch.empty(x.shape, dtype=x.dtype)
        self._library.luthier_rotary(_at(x), x.stride(0), _at(cos), _at(sin), _at(factor), _at(said), tokens, heads, width, _threads())
        return said

    def attention_backward(
        self, score: Tensor, d_share: Tensor, total: Tensor, pulled: Tensor, first: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `kernels.attention_backward`."""
        given = [each.contiguous() for each in (score, d_share, total, pulled, first, last)]
        share, d_score = torch.empty_like(given[0]), torch.empty_like(given[0])
        self._library.luthier_attention_scores_backward(*map(_at, (*given, share, d_score)), *score.shape, _threads())
        return share, d_score

    def transpose(self, values: Tensor) -> Tensor:
        """The transpose as a view: without tiles a product takes it as it lies, # (tokens, width) → (width, tokens)"""
        return values.t()

    def cross_entropy_(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `kernels.cross_entropy_`; logits: contiguous."""
        target, lost = target.contiguous(), torch.empty(len(logits))
        self._library.luthier_cross_entropy(_at(logits), _at(target), _at(lost), *logits.shape, _threads())
        return lost

    def square_sum(self, values: Tensor) -> Tensor:
        """See `kernels.square_sum`."""
        values = values.contiguous()
        return torch.tensor(self._library.luthier_square_sum(_at(values), values.numel()))

    def adamw_(self, weight: Tensor, mean: Tensor, square: Tensor, rounded: Tensor, gradient: Tensor, numbers: Tensor) -> None:
        """See `kernels.adamw_`."""
        given = map(_at, (weight, mean, square, rounded, gradient, numbers))
        self._library.luthier_adamw(*given, weight.numel(), _threads())

    def knows(self, packing: Packing, window: int, width: int) -> bool:
        """Whether rows go through attention as they do here: whole, causal, without dropout, and so short that their scores stay in a processor's caches.

        Args:
            packing: of the rows.
            window: how far a token looks back, its own place included; 0: to the beginning.
            width: of a head.
        """
        if packing.shared is not None or packing.dropout or not packing.causal or width > WIDEST:
            return False
        return packing.rows.longest <= (min(LONGEST, window) if window else LONGEST)

    def weight_gradient(self, d_said: Tensor, x: Tensor) -> Tensor:
        """The gradient of a layer's weights, # (out, in)

        Args:
            d_said: of what it said, # (tokens, out)
            x: what it read, # (tokens, in)
        """
        return d_said.t() @ x

    def column_sums(self, values: Tensor) -> Tensor:
        """The sum of each column, # (tokens, width) → (width,) fp32"""
        return values.float().sum(0)

    def attention(self, given: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """Attention within each row.

        Args:
            given: queries, keys and values of each token behind each other, # (tokens, (heads + 2 × key heads) × width)
            heads: how it goes.

        Returns:
            what is said, zero behind the last row, # (tokens, heads × width), and the log-sum-exp of each query's scores, # (tokens, heads) fp32
        """
        tokens = len(given)
        said, total = torch.empty(tokens, heads.heads * heads.width, dtype=given.dtype), torch.empty(tokens, heads.heads)
        said[tokens - heads.rows.padding :] = 0
        self._attend(heads, given, said, total)
        return said, total

    def attention_gradient(self, given: Tensor, heads: Heads, said: Tensor, total: Tensor, d_said: Tensor) -> Tensor:
        """The gradient of what was given to `attention`, as that.

        Args:
            given: as there.
            heads: as there.
            said: what it said.
            total: the second of what it returned.
            d_said: the gradient of what it said, # (tokens, heads × width)
        """
        d_given = torch.empty_like(given)
        d_given[len(given) - heads.rows.padding :] = 0
        self._attend_backward(heads, given, said, total, d_said.contiguous(), d_given)
        return d_given

    def _attend(self, heads: Heads, *tensors: Tensor) -> None:
        """What is given → what is said, and the log-sum-exps."""
        self._library.luthier_attention(_at(tensors[0]), byref(_plain(heads)), *map(_at, tensors[1:]), _threads())

    def _attend_backward(self, heads: Heads, *tensors: Tensor) -> None:
        """What was given, what was said, the log-sum-exps, and the gradient of what was said → that of what was given."""
        self._library.luthier_attention_backward(_at(tensors[0]), byref(_plain(heads)), *map(_at, tensors[1:]), _threads())


def _plain(heads: Heads) -> _Heads:
    """As the compiled code reads it."""
    assert heads.cos is not None
    assert heads.sin is not None
    starts = heads.rows.starts
    sizes = (len(starts) - 1, heads.heads, heads.key_heads, heads.width)
    return _Heads(starts.data_ptr(), *sizes, heads.cos.data_ptr(), heads.sin.data_ptr(), heads.scale)


_at = Tensor.data_ptr
_threads = torch.get_num_threads


@functools.cache
def _open(file: Path) -> Any:
    place, count = c_void_p, c_int64
    library = shared_library.declare(
        file,
        {
            "rms_norm": [*[place] * 5, count, count],
            "rms_norm_backward": [*[place] * 6, count, count],
            "rms_norm_weight_backward": [*[place] * 4, count, count],
            "swiglu": [*[place] * 3, count],
            "swiglu_backward": [*[place] * 6, count],
            "rotary": [place, count, *[place] * 4, count, count, count],
            "attention_scores_backward": [*[place] * 8, count, count],
            "cross_entropy": [*[place] * 3, count, count],
            "adamw": [*[place] * 6, count],
            "attention": [*[place] * 4],
            "attention_backward": [*[place] * 6],
        },
    )
    library.luthier_square_sum.argtypes, library.luthier_square_sum.restype = [place, count], c_float
    return library
