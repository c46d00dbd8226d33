"""One step of a decoder that writes text: tokens of several texts go through the network together, each behind its own keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.models.decode_network import Block, DecodeNetwork, Linear
from luthier.models.decode_pages import PAGE

Matrix = Callable[[Tensor], Tensor]
"""A product: rows → rows, # (rows, inputs) → (rows, outputs)"""


@dataclass(frozen=True)
class Span:
    """Tokens of one text that follow each other.

    Args:
        tokens: their ids, at least one.
        start: the position of the first.
        pages: where the text's keys and values lie, in order; enough for the last of these tokens.
        wanted: of how many of the last tokens the logits are wanted; none while a prompt is not at its end.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    wanted: int = 1


@dataclass
class Rows:
    """The tokens of a step, as tensors.

    Args:
        tokens: # (rows,) int64
        positions: each token's, # (rows,) int32
        text: which of the tables is its own, # (rows,) int32
        tables: the pages of every text, # (texts, most pages) int32
        spans: as given.
        wanted: rows whose logits are wanted, # (wanted,) int64; None where all are
    """

    tokens: Tensor
    positions: Tensor
    text: Tensor
    tables: Tensor
    spans: Sequence[Span]
    wanted: Tensor | None


@dataclass
class Cache:
    """Keys and values of all blocks.

    Args:
        keys: # (blocks, pages, key heads, head width, page)
        values: # (blocks, pages, key heads, page, head width)
        rotations: cosines and sines by the name of their table, # (context, half of the head width)
    """

    keys: Tensor
    values: Tensor
    rotations: dict[str, tuple[Tensor, Tensor]]


class Operations(Protocol):
    """The parts of a step; there are plain ones of torch and compiled ones."""

    @property
    def name(self) -> str:
        """Whose they are."""
        ...

    def matrix(self, linear: Linear) -> Matrix:
        """Lay out the weights of a product."""
        ...

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root mean square norm, # (rows, width)"""
        ...

    def attend(self, qkv: Tensor, layer: int, block: Block, network: DecodeNetwork, cache: Cache, rows: Rows) -> Tensor:
        """Rotate queries and keys, write keys and values into the cache, and attend, # (rows, heads × head width)"""
        ...

    def activate(self, gate_up: Tensor, activation: str) -> Tensor:
        """The gate's function times the up projection, # (rows, 2 × inner) → (rows, inner)"""
        ...


@dataclass(frozen=True)
class _Products:
    """The matrices of a block."""

    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix


def page_bytes(network: DecodeNetwork) -> int:
    """Memory of one page, all blocks together, in bytes."""
    return len(network.blocks) * network.key_heads * network.head_width * PAGE * 2 * 4


class Decoder:
    """A network with its operations and its memory of keys and values.

    Args:
        network: as read.
        operations: that compute it.
        pages: of the memory, allocated at once.
        context: tokens that a text may have at most.
    """

    def __init__(self, network: DecodeNetwork, operations: Operations, pages: int, context: int, cache: Cache | None = None) -> None:
        self.network, self.operations, self.context = network, operations, context
        if cache is None:
            shape = (len(network.blocks), pages, network.key_heads)
            keys = torch.zeros(*shape, network.head_width, PAGE)
            cache = Cache(keys, torch.zeros(*shape, PAGE, network.head_width), network.rotations(context))
        self.cache = cache
        self.products = [
            _Products(*(operations.matrix(each) for each in (block.qkv, block.output, block.gate_up, block.down)))
            for block in network.blocks
        ]
        self.head = operations.matrix(network.head)

    @torch.inference_mode()
    def step(self, spans: Sequence[Span]) -> Tensor:
        """Compute some tokens of some texts and keep their keys and values.

        Args:
            spans: of different texts; what lies before each has been computed.

        Returns:
            the logits of the wanted rows, in order, # (wanted, vocabulary)
        """
        rows = _rows(spans)
        network, operations, eps = self.network, self.operations, self.network.eps
        x = network.embedding.index_select(0, rows.tokens)
        if network.embedding_scale != 1.0:
            x = x * network.embedding_scale
        for layer, (block, products) in enumerate(zip(network.blocks, self.products)):
            qkv = products.qkv(operations.norm(x, block.input_norm, eps))
            told = products.output(operations.attend(qkv, layer, block, network, self.cache, rows))
            x = x + (told if block.after_attention is None else operations.norm(told, block.after_attention, eps))
            inner = operations.activate(products.gate_up(operations.norm(x, block.feed_norm, eps)), network.activation)
            told = products.down(inner)
            x = x + (told if block.after_feed is None else operations.norm(told, block.after_feed, eps))
        if rows.wanted is not None:
            x = x.index_select(0, rows.wanted)
            if not len(x):
                return x.new_empty(0, network.vocabulary)
        logits = self.head(operations.norm(x, network.norm, eps))
        if network.softcap:
            logits = torch.tanh(logits / network.softcap) * network.softcap
        return logits


def _rows(spans: Sequence[Span]) -> Rows:
    tokens: list[int] = []
    positions: list[int] = []
    text: list[int] = []
    wanted: list[int] = []
    for number, span in enumerate(spans):
        count = len(span.tokens)
        wanted.extend(range(len(tokens) + count - span.wanted, len(tokens) + count))
        tokens.extend(span.tokens)
        positions.extend(range(span.start, span.start + count))
        text.extend([number] * count)
    most = max(len(span.pages) for span in spans)
    tables = [[*span.pages, *[0] * (most - len(span.pages))] for span in spans]
    numbers: dict[str, Any] = {"dtype": torch.int32}
    return Rows(
        torch.tensor(tokens), torch.tensor(positions, **numbers), torch.tensor(text, **numbers), torch.tensor(tables, **numbers),
        spans, None if len(wanted) == len(tokens) else torch.tensor(wanted, dtype=torch.int64),
    )  # fmt: skip
