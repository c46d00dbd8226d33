"""The decoder of a small encoder–decoder in compiled code (translation_kernels.cpp), and the choice between it and torch's operations."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import LuthierError
from luthier.models.decoding.int8 import lay_in_panels
from luthier.models.encoder_decoder import EncoderDecoder
from luthier.models.halves import Block, Change, Feed, Half, halves_of, plain_linear
from luthier.models.kernels import shared_library
from luthier.models.translation_steps import NARROW, Sources, Steps, TorchSteps, crossing_of, read_sources

NAME, SOURCE = "translate", Path(__file__).with_name("translation_kernels.cpp")
PANEL = 64
"""Widths are a multiple of this, as compiled."""
LANES = 16
"""So is a head's width of this."""


def open_steps(model: EncoderDecoder, sources: Sequence[Sequence[int]], longest: int, beams: int, never: Sequence[int]) -> Steps:
    """Compiled code where the decoder is small, plain and in fp32 on a processor and the code can be had, else torch's operations.

    Args:
        model: in eval mode.
        sources: token ids of each row.
        longest: tokens that a text may have.
        beams: texts a row.
        never: tokens that are never written.
    """
    half = halves_of(model.network)[1]
    if _is_known(model, half):
        library = _library_or_none(str(shared_library.library_file(NAME, SOURCE)))
        if library is not None:
            return CompiledSteps(library, model, half, read_sources(model, sources, 1), longest, beams, never)
    return TorchSteps(model, sources, longest, beams, never)


class _Matrix(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("outputs", c_int32), ("inputs", c_int32)]


class _Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_float)]


class _Block(Structure):
    _fields_ = [
        ("own_norm", _Norm), ("qkv", _Matrix), ("own_out", _Matrix), ("crossing_norm", _Norm), ("query", _Matrix), ("crossing_out", _Matrix),
        ("feed_norm", _Norm), ("up", _Matrix), ("down", _Matrix), *((name, c_void_p) for name in ("keys", "values", "source_keys", "source_values")),
    ]  # fmt: skip


class _Network(Structure):
    _fields_ = [
        ("block", POINTER(_Block)), ("last", _Norm), ("head", _Matrix), ("scale", c_float),
        *((name, c_int32) for name in ("blocks", "width", "inner", "heads", "head_width", "before", "silu")),
    ]  # fmt: skip


class _Texts(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("row", "source_length", "writers", "never")),
        *((name, c_int32) for name in ("rows", "beams", "step", "longest", "places", "source_places", "nevers", "candidates")),
    ]


class CompiledSteps(Steps):
    """A decoder in compiled code; a text's bits depend neither on those beside it nor on threads.

    The weights are laid out anew for each few sources: they may have moved since.

    Args:
        library: the compiled code.
        model: in eval mode, one that `_is_known`.
        half: its decoder.
        read: the sources.
        longest: tokens that a text may have.
        beams: texts a row.
        never: tokens that are never written.
    """

    def __init__(
        self, library: Any, model: EncoderDecoder, half: Half, read: Sources, longest: int, beams: int, never: Sequence[int]
    ) -> None:
        super().__init__(model, beams, torch.zeros(len(read.lengths), beams, longest, dtype=torch.int32))
        self.half, self.longest = half, longest
        self.threads, self._library, self._held = torch.get_num_threads(), library, list[Tensor]()
        rows, own = len(read.lengths), half.blocks[0].attention
        self.rows = torch.arange(rows, dtype=torch.int32)
        self.lengths, self.source_places = read.lengths.int(), read.longest
        self.never = torch.tensor(never, dtype=torch.int32)
        self.texts = torch.arange(beams, dtype=torch.int32)
        blocks = (_Block * len(half.blocks))(*(self._block(block, read, longest * beams) for block in half.blocks))
        weight, bias = model.output()
        self.vocabulary, width = weight.shape
        head = self._matrix(weight, bias, -math.inf)
        first = blocks[0]
        last = self._norm(half.last) if isinstance(half.last, nn.LayerNorm) else _Norm(None, None, 0.0)
        silu = not isinstance(_feed(half.blocks[0]).bend, nn.ReLU)
        heads = first.own_out.inputs
        self._network = _Network(
            blocks, last, head, own.scale, len(blocks), width, first.up.outputs, own.heads, heads // own.heads, half.before, silu
        )
        self._room = torch.empty(rows * beams * (width + 3 * heads + max(heads, first.up.outputs)))
        self._scores = torch.empty(rows * beams if beams > 1 else 0, head.outputs)

    def likeliest(self, tokens: Tensor) -> list[int]:
        """See `Steps`."""
        _, found = self._compute(tokens, 0, self.threads)
        return found[: len(tokens)].tolist()

    def candidates(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `Steps`."""
        values, found = self._compute(tokens, count, count)
        return values.view(len(tokens), count), found.view(len(tokens), count)

    def _compute(self, tokens: Tensor, candidates: int, room: int) -> tuple[Tensor, Tensor]:
        values = self.half.embed(tokens, torch.full_like(tokens, self.step)).contiguous()
        self.writers[:, :, self.step] = self.texts
        writers = None if self.beams == 1 else self.writers.data_ptr()
        texts = _Texts(
            self.rows.data_ptr(), self.lengths.data_ptr(), writers, self.never.data_ptr(), len(self.rows), self.beams, self.step, self.longest,
            self.longest * self.beams, self.source_places, len(self.never), candidates,
        )  # fmt: skip
        best, found = torch.empty(len(tokens) * room), torch.empty(len(tokens) * room, dtype=torch.int32)
        self._library.luthier_translation_step(
            byref(self._network), byref(texts), values.data_ptr(), self._room.data_ptr(), self._scores.data_ptr(), best.data_ptr(),
            found.data_ptr(), self.threads,
        )  # fmt: skip
        self.step += 1
        return best, found

    def keep_rows(self, rows: Tensor) -> None:
        """Their past stays where it is."""
        self.rows, self.writers = self.rows.index_select(0, rows), self.writers.index_select(0, rows)

    def _hold(self, tensor: Tensor) -> int:
        """The address of a tensor that stays where it is as long as this object lives."""
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def _matrix(self, weight: Tensor, bias: Tensor | None, beyond: float = 0.0) -> _Matrix:
        """In panels, the last one filled with outputs that are `beyond`."""
        outputs, inputs = weight.shape
        missing = -outputs % PANEL
        if missing:
            bias = nn.functional.pad(weight.new_zeros(outputs) if bias is None else bias, (0, missing), value=beyond)
        return _Matrix(
            self._hold(lay_in_panels(weight.detach())), None if bias is None else self._hold(bias.detach()), outputs + missing, inputs
        )

    def _linear(self, *changes: Change) -> _Matrix:
        """Layers of the same input, their outputs behind each other."""
        layers = [layer for change in changes if (layer := plain_linear(change)) is not None]
        biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in layers]
        return self._matrix(torch.cat([weight for weight, _ in layers]), torch.cat(biases))

    def _norm(self, norm: Any) -> _Norm:
        return _Norm(self._hold(norm.weight.detach()), self._hold(norm.bias.detach()), norm.eps)

    def _block(self, block: Block, read: Sources, places: int) -> _Block:
        own, crossing, feed = block.attention, crossing_of(block), _feed(block)
        source = read.keys_and_values(crossing)  # (2, rows, heads, length, width)
        past = source.new_empty(2, source.shape[1], own.heads, places, source.shape[-1])
        self._held += [source, past]
        return _Block(
            self._norm(own.norm), self._linear(own.query, own.key, own.value), self._linear(own.out),
            self._norm(crossing.norm), self._linear(crossing.query), self._linear(crossing.out),
            self._norm(block.norm), self._linear(feed.up), self._linear(feed.down),
            *(each.data_ptr() for each in (*past, *source)),
        )  # fmt: skip


def _is_known(model: EncoderDecoder, half: Half) -> bool:
    """Whether the compiled code computes a decoder: its layers are plain, its weights in fp32 on a processor, its widths what registers hold."""
    weight, _ = model.output()
    if (
        not _is_fp32(weight)
        or weight.shape[1] > NARROW
        or half.bias is not None
        or getattr(model.network.config, "scale_decoder_outputs", False)
    ):
        return False
    if half.before and type(half.last) is not nn.LayerNorm:
        return False
    return all(_block_is_known(block, weight.shape[1]) for block in half.blocks) and len({_shape(block) for block in half.blocks}) == 1


def _block_is_known(block: Block, width: int) -> bool:
    own, crossing = block.attention, crossing_of(block)
    if not isinstance(block.feed, Feed) or not isinstance(block.feed.bend, nn.ReLU | nn.SiLU):
        return False
    layers = [plain_linear(each) for at in (own, crossing) for each in (at.query, at.key, at.value, at.out)]
    layers += [plain_linear(block.feed.up), plain_linear(block.feed.down)]
    if any(layer is None or not _is_fp32(layer[0]) or any(size % PANEL for size in layer[0].shape) for layer in layers):
        return False
    norms: list[Any] = [own.norm, crossing.norm, block.norm]
    if any(type(norm) is not nn.LayerNorm or norm.bias is None or not _is_fp32(norm.weight) for norm in norms):
        return False
    return (own.heads, own.scale) == (crossing.heads, crossing.scale) and width % own.heads == 0 and width // own.heads % LANES == 0


def _shape(block: Block) -> tuple[Any, ...]:
    """What all blocks have in common."""
    feed = _feed(block)
    up = plain_linear(feed.up)
    return type(feed.bend), block.attention.heads, block.attention.scale, None if up is None else up[0].shape


def _feed(block: Block) -> Feed:
    assert isinstance(block.feed, Feed)
    return block.feed


def _is_fp32(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


@functools.cache
def _library_or_none(file: str) -> Any | None:
    """The compiled code; None where it cannot be had, which is not tried again.

    Args:
        file: where it is kept, so that another place is tried anew.
    """
    try:
        return shared_library.load(NAME, SOURCE, _open)
    except LuthierError:
        return None


def _open(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    library.luthier_translation_step.argtypes = [POINTER(_Network), POINTER(_Texts), *[c_void_p] * 5, ctypes.c_int]
    library.luthier_translation_step.restype = None
    return library
