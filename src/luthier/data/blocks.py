"""Documents as blocks of tokens: the tokens lie in one array, in a file where they are many, and an example is made when it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.cache import cache_folder
from luthier.core.run import name_disk_errors
from luthier.core.types import Example, Record
from luthier.data.lazy_examples import LazyExamples

IN_MEMORY = 64 << 20
"""Bytes of tokens that are kept in memory; more stay in a file without a name, which goes with the process."""
PIECE = 200_000
"""Characters that are encoded at once."""

Encode = Callable[[str], tuple[list[int], list[int]]]
"""A text → its tokens, and the character that each begins with."""


@dataclass(frozen=True)
class Encoded:
    """A document's tokens.

    Args:
        tokens: with the one that stands before the text, and the end where it is learned, # (tokens,)
        bytes: UTF-8 bytes of the text that lie before each token, # (tokens,)
        size: bytes of the text.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    size: int


def encode_document(text: str, encode: Encode, before: int, end: int | None) -> Encoded:
    """Tokens of a text, a piece at a time; pieces end behind a line, where no tokenizer joins what stands on both sides.

    Args:
        text: the document.
        encode: the tokenizer.
        before: the token that stands before each document, so that its first one can be predicted.
        end: the token that ends it; None where the text goes on.
    """
    tokens, places, start = [np.array([before])], [np.array([0])], 0
    while start < len(text):
        stop = _piece_end(text, start)
        ids, at = encode(text[start:stop])
        tokens.append(np.array(ids, dtype=np.int64))
        places.append(np.array(at, dtype=np.int64) + start)
        start = stop
    if end is not None:
        tokens.append(np.array([end]))
        places.append(np.array([len(text)]))
    ends = _bytes_before(text)
    return Encoded(np.concatenate(tokens), ends[np.concatenate(places)], int(ends[-1]))


def _piece_end(text: str, start: int) -> int:
    """Where the piece that begins here ends: behind a line that is followed by a sign that is no space, or at the end of the text."""
    stop = start + PIECE
    while stop < len(text):
        line = text.find("\n", stop)
        if line < 0 or line + 1 >= len(text):
            break
        if not text[line + 1].isspace():
            return line + 1
        stop = line + 1
    return len(text)


def _bytes_before(text: str) -> np.ndarray:
    """How many UTF-8 bytes lie before each character, and how many there are in all, # (characters + 1,)"""
    if text.isascii():
        return np.arange(len(text) + 1)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(widths)])


class Blocks(LazyExamples):
    """Documents in blocks of the context's length, each of whose tokens but the first one is predicted once.

    Args:
        records: the documents.
        encoded: their tokens, in the same order; read once.
        context: tokens of a block at most.
        vocabulary: how many different tokens there are.
    """

    def __init__(self, records: Sequence[Record], encoded: Iterable[Encoded], context: int, vocabulary: int) -> None:
        self.records, self.context = records, context
        dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        index: list[np.ndarray] = []
        written = 0
        folder = cache_folder()
        with name_disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                for owner, document in enumerate(encoded):
                    file.write(document.tokens.astype(dtype).tobytes())
                    index.append(_index(document, owner, written, context))
                    written += len(document.tokens)
                file.flush()
                file.seek(0)
                small = written * dtype().itemsize <= IN_MEMORY
                self.tokens = np.fromfile(file, dtype=dtype) if small else np.memmap(file, dtype=dtype, mode="r", shape=(written,))
        empty = np.empty((0, 5), dtype=np.int64)
        whole = np.concatenate([empty, *index])
        self.starts, self.at = whole[:, 0].copy(), whole[:, 1].copy()
        self.lengths, self.owners, self.bytes = (whole[:, column].astype(np.int32) for column in (2, 3, 4))

    def __len__(self) -> int:
        return len(self.starts)

    def make(self, number: int) -> Example:
        """See `LazyExamples`."""
        start, length, owner = int(self.starts[number]), int(self.lengths[number]), int(self.owners[number])
        tokens = self.tokens[start : start + length + 1].astype(np.int64)
        return Example(
            index=number,
            inputs={"tokens": tokens[:-1]},
            target=tokens[1:],
            record=self.records[owner],
            size=length,
            units=float(length),
            facts={"bytes": int(self.bytes[number]), "document": owner, "at": int(self.at[number])},
        )


def _index(document: Encoded, owner: int, start: int, context: int) -> np.ndarray:
    """The blocks of a document: where each begins in the array and in the document, its length, its document, and the bytes of what it predicts, # (blocks, 5)"""
    begins = np.arange(0, max(len(document.tokens) - 1, 0), context)
    if not len(begins):
        return np.empty((0, 5), dtype=np.int64)
    lengths = np.minimum(context, len(document.tokens) - 1 - begins)
    edges = np.concatenate([[0], document.bytes[begins[1:] + 1], [document.size]])
    return np.stack([begins + start, begins, lengths, np.full(len(begins), owner), np.diff(edges)], 1)


def join_blocks(examples: Iterable[Example]) -> Iterator[np.ndarray]:
    """The tokens of blocks, those that follow each other in a document as one, each with its last target, # (tokens,)

    Args:
        examples: blocks; those of a document in their order.
    """
    parts: list[Any] = []
    last: Example | None = None
    for example in examples:
        if last is not None and (
            example.facts["document"] != last.facts["document"] or example.facts["at"] != last.facts["at"] + last.size
        ):
            yield np.concatenate([*parts, last.target[-1:]]).astype(np.int32)
            parts = []
        parts.append(example.tokens)
        last = example
    if last is not None:
        yield np.concatenate([*parts, last.target[-1:]]).astype(np.int32)
