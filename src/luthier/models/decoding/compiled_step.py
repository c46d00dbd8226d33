"""A step in compiled code (kernels.cpp): compiled once for a machine, kept beside the models, loaded in milliseconds."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.decoding.int8 import lay_in_panels, quantise_groups
from luthier.models.decoding.network import Block, DecodeNetwork, Linear
from luthier.models.decoding.step import Cache, Span, lay_out_rows
from luthier.models.kernels import shared_library

SOURCE = Path(__file__).with_name("kernels.cpp")


class _Matrix(Structure):
    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p), ("outputs", c_int32), ("inputs", c_int32)]


class _Block(Structure):
    _fields_ = [
        ("input_norm", c_void_p), ("qkv", _Matrix), ("q_norm", c_void_p), ("k_norm", c_void_p), ("output", _Matrix), ("after_attention", c_void_p),
        ("feed_norm", c_void_p), ("gate_up", _Matrix), ("down", _Matrix), ("after_feed", c_void_p), ("cos", c_void_p), ("sin", c_void_p),
        ("keys", c_void_p), ("values", c_void_p), ("window", c_int64),
    ]  # fmt: skip


class _Network(Structure):
    _fields_ = [
        ("embeddings", c_void_p), ("norm", c_void_p), ("head", _Matrix), ("block", POINTER(_Block)),
        ("embedding_scale", c_float), ("eps", c_float), ("scale", c_float),
        *((name, c_int32) for name in ("blocks", "width", "inner", "heads", "key_heads", "head_width", "gelu")),
    ]  # fmt: skip


class _Rows(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("tokens", "positions", "text", "tables", "wanted")),
        *((name, c_int32) for name in ("count", "pages", "wanted_count")),
    ]


def library_file() -> Path:
    """Where the code for this processor lies, whether it is there or not: below `LUTHIER_KERNELS`, else beside the models."""
    return shared_library.library_file("decode", SOURCE)


def load_library() -> Any:
    """The compiled code, compiled first where it is not there.

    Raises:
        LuthierError: it cannot be had.
    """
    return shared_library.load("decode", SOURCE, _library)


@functools.cache
def _library(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    library.luthier_decode_step.argtypes = [POINTER(_Network), POINTER(_Rows), c_void_p, c_void_p, ctypes.c_int]
    library.luthier_decode_step.restype = None
    library.luthier_multiply.argtypes = [POINTER(_Matrix), c_void_p, ctypes.c_int, c_void_p, ctypes.c_int]
    library.luthier_multiply.restype = None
    return library


class CompiledDecoder:
    """Computes steps by compiled code; a row's bits depend on its own text alone, neither on others nor on threads.

    Args:
        network: as read.
        cache: of keys and values.
        precision: of the weights of products: fp32 or int8.
        threads: that compute; 0 takes torch's number.

    Raises:
        LuthierError: compiled code cannot be had here.
    """

    def __init__(self, network: DecodeNetwork, cache: Cache, precision: str = "fp32", threads: int = 0) -> None:
        self.cache, self.precision = cache, precision
        self.network = replace(network, blocks=())  # their weights are held as they are computed with, and in int8 those in fp32 may go
        self.about = f"compiled code, weights in {precision}"
        self.threads = threads or torch.get_num_threads()
        self._library = load_library()
        self._held: list[Tensor] = []
        blocks = (_Block * len(network.blocks))(*(self._block(block, layer) for layer, block in enumerate(network.blocks)))
        inner = network.blocks[0].down.weight.shape[1]
        self._network = _Network(
            self._hold(network.embedding), self._hold(network.norm), self._matrix(network.head), blocks,
            network.embedding_scale, network.eps, network.scale, len(blocks), network.embedding.shape[1], inner, network.heads,
            network.key_heads, network.head_width, int(network.activation == "gelu_tanh"),
        )  # fmt: skip
        heads = network.heads * network.head_width
        key_heads = network.key_heads * network.head_width
        self._room_width = 2 * network.embedding.shape[1] + max(heads + 2 * key_heads, 2 * inner) + max(heads, inner)

    def _hold(self, tensor: Tensor | None) -> int | None:
        """The address of a tensor that stays where it is as long as this object lives."""
        if tensor is None:
            return None
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def _matrix(self, linear: Linear) -> _Matrix:
        outputs, inputs = linear.weight.shape
        if self.precision == "int8":
            numbers, scale = quantise_groups(linear.weight)
            return _Matrix(self._hold(lay_in_panels(numbers)), self._hold(lay_in_panels(scale)), self._hold(linear.bias), outputs, inputs)
        return _Matrix(self._hold(lay_in_panels(linear.weight)), None, self._hold(linear.bias), outputs, inputs)

    def _block(self, block: Block, layer: int) -> _Block:
        cos, sin = self.cache.rotations[block.rotation] if block.rotation else (None, None)
        return _Block(
            self._hold(block.input_norm), self._matrix(block.qkv), self._hold(block.q_norm), self._hold(block.k_norm), self._matrix(block.output),
            self._hold(block.after_attention), self._hold(block.feed_norm), self._matrix(block.gate_up), self._matrix(block.down),
            self._hold(block.after_feed), self._hold(cos), self._hold(sin), self.cache.keys[layer].data_ptr(), self.cache.values[layer].data_ptr(),
            block.window,
        )  # fmt: skip

    def step(self, spans: Sequence[Span]) -> Tensor:
        """Compute some tokens of some texts and keep their keys and values.

        Args:
            spans: of different texts; what lies before each has been computed.

        Returns:
            the logits of the wanted rows, in order, # (wanted, vocabulary)
        """
        rows = lay_out_rows(spans, self.cache)
        arguments = _Rows(
            *(each.data_ptr() for each in (rows.tokens, rows.positions, rows.text, rows.tables, rows.wanted)),
            len(rows.tokens), rows.tables.shape[1], len(rows.wanted),
        )  # fmt: skip
        room = torch.empty(len(rows.tokens) * self._room_width)
        logits = torch.empty(len(rows.wanted), self.network.vocabulary)
        self._library.luthier_decode_step(byref(self._network), byref(arguments), room.data_ptr(), logits.data_ptr(), self.threads)
        return self.network.bend(logits)
