"""One step of a decoder that writes text: tokens of several texts go through the network together, each behind its own keys and values."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.decoding.network import DecodeNetwork
from luthier.models.decoding.pages import PAGE


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
        wanted: rows whose logits are wanted, # (wanted,) int64
    """

    tokens: Tensor
    positions: Tensor
    text: Tensor
    tables: Tensor
    wanted: Tensor


@dataclass
class Cache:
    """Keys and values of all blocks.

    Args:
        keys: # (blocks, pages, key heads, head width, page)
        values: # (blocks, pages, key heads, page, head width)
        rotations: cosines and sines by the name of their table, # (context, half of the head width)
        context: tokens that a text may have at most.
    """

    keys: Tensor
    values: Tensor
    rotations: dict[str, tuple[Tensor, Tensor]]
    context: int


class Decoder(Protocol):
    """Computes steps and holds the keys and values."""

    @property
    def about(self) -> str:
        """What computes, and in which precision."""
        ...

    @property
    def network(self) -> DecodeNetwork:
        """Whose weights these are."""
        ...

    @property
    def cache(self) -> Cache:
        """The keys and values."""
        ...

    def step(self, spans: Sequence[Span]) -> Tensor:
        """Compute some tokens of some texts and keep their keys and values.

        Args:
            spans: of different texts; what lies before each has been computed.

        Returns:
            the logits of the wanted rows, in order, # (wanted, vocabulary)
        """
        ...


def page_bytes(network: DecodeNetwork) -> int:
    """Memory of one page, all blocks together, in bytes."""
    return len(network.blocks) * network.key_heads * network.head_width * PAGE * 2 * 4


def make_cache(network: DecodeNetwork, pages: int, context: int) -> Cache:
    """Allocate the memory of keys and values.

    Args:
        network: as read.
        pages: of the memory.
        context: tokens that a text may have at most.
    """
    shape = (len(network.blocks), pages, network.key_heads)
    keys = map_zeros(*shape, network.head_width, PAGE)
    return Cache(keys, map_zeros(*shape, PAGE, network.head_width), network.rotations(context), context)


def map_zeros(*shape: int) -> Tensor:
    """Zeros whose memory the system gives when it is first used: half a gigabyte that is filled at once takes a server half a second to start.

    Args:
        shape: of the tensor, in fp32.
    """
    room = mmap.mmap(-1, 4 * math.prod(shape))  # it lives as long as the tensor does
    return torch.frombuffer(room, dtype=torch.float32).view(shape)


def lay_out_rows(spans: Sequence[Span], cache: Cache) -> Rows:
    """The tokens of a step, as tensors.

    Args:
        spans: of different texts.
        cache: that their keys and values are written to.

    Raises:
        ModelError: a text is longer than the cache allows: compiled code would write into memory that is not its own.
    """
    for span in spans:
        end = span.start + len(span.tokens)
        if end > min(cache.context, len(span.pages) * PAGE):
            raise ModelError(f"a text of {end} tokens does not fit into a context of {cache.context} and {len(span.pages)} pages of {PAGE}")
    tokens: list[int] = []
    positions: list[int] = []
    text: list[int] = []
    output_rows: list[int] = []
    for number, span in enumerate(spans):
        count = len(span.tokens)
        output_rows.extend(range(len(tokens) + count - span.wanted, len(tokens) + count))
        tokens.extend(span.tokens)
        positions.extend(range(span.start, span.start + count))
        text.extend([number] * count)
    most = max(len(span.pages) for span in spans)
    tables = [[*span.pages, *[0] * (most - len(span.pages))] for span in spans]
    short: dict[str, Any] = {"dtype": torch.int32}
    return Rows(
        torch.tensor(tokens, dtype=torch.int64), torch.tensor(positions, **short), torch.tensor(text, **short),
        torch.tensor(tables, **short), torch.tensor(output_rows, dtype=torch.int64),
    )  # fmt: skip
