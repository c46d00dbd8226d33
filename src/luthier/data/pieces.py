"""Texts in pieces of so many tokens, with the word that each token is of: all lie in arrays, and an example is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from luthier.core.types import Example, Record
from luthier.data.lazy_examples import LazyExamples

TOGETHER = 64
"""Texts that are encoded at once."""


class Pieces(LazyExamples):
    """Texts in pieces, each with what the tokenizer puts around a text; a text that fits is one piece.

    Args:
        records: the rows.
        text_of: a row → its text.
        tokenizer: a fast one of transformers.
        length: tokens of a piece at most, with those around it.
    """

    def __init__(self, records: Sequence[Record], text_of: Callable[[Record], str], tokenizer: Any, length: int) -> None:
        self.records, self.text_of = records, text_of
        tokens: list[np.ndarray] = [np.empty(0, np.int32)]
        words: list[np.ndarray] = [np.empty(0, np.int32)]
        owners: list[int] = []
        spans: list[tuple[int, int]] = []
        for start in range(0, len(records), TOGETHER):
            part = records[start : start + TOGETHER]
            encoded = tokenizer([text_of(record) for record in part], truncation=True, max_length=length, return_overflowing_tokens=True,
                                return_offsets_mapping=True)  # fmt: skip
            for piece, within in enumerate(encoded["overflow_to_sample_mapping"]):
                found = [-1 if word is None else word for word in encoded.word_ids(piece)]
                own = [span for span, word in zip(encoded["offset_mapping"][piece], found, strict=True) if word >= 0]
                tokens.append(np.array(encoded["input_ids"][piece], np.int32))
                words.append(np.array(found, np.int32))
                owners.append(start + within)
                spans.append((own[0][0], own[-1][1]) if own else (0, 0))
        self.tokens, self.words = np.concatenate(tokens), np.concatenate(words)
        self.owners, self.spans = np.array(owners, np.int64), np.array(spans, np.int64).reshape(-1, 2)
        self.edges = np.cumsum([0, *(len(each) for each in tokens[1:])])
        first = np.flatnonzero(np.diff(self.owners, prepend=-1))
        self.alone = np.bincount(self.owners, minlength=len(records)) == 1
        self.begins = self.edges[first][np.searchsorted(first, np.arange(len(self.owners)), side="right") - 1]

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each piece, # (pieces,)"""
        return np.diff(self.edges)

    def make(self, number: int) -> Example:
        """See `LazyExamples`."""
        start, stop = self.edges[number : number + 2].tolist()
        owner, words = int(self.owners[number]), self.words[start:stop]
        facts = {
            "words": words,
            "read_text": partial(self.text, number),
            "document": owner,
            "at": int(start - self.begins[number]),
        }
        return Example(
            number,
            {"tokens": self.tokens[start:stop].tolist()},
            None,
            self.records[owner],
            stop - start,
            float((words >= 0).sum()),
            facts=facts,
        )

    def text(self, number: int) -> str:
        """What a piece says; it is read when it is asked for, for the record of a file reads the whole file each time.

        Args:
            number: of the piece.
        """
        owner = int(self.owners[number])
        text = self.text_of(self.records[owner])
        return text if self.alone[owner] else text[slice(*self.spans[number])]
