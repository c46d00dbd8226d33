"""The words of many rows in one array, long rows in pieces; an example is made when it is asked for, so memory holds four bytes a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Example, Record
from luthier.core.words import plural
from luthier.data.lazy_examples import LazyExamples

LONGEST = 512
"""Words of a piece: a window that is cut at its end costs one pair in a few hundred."""


class WordVectorsSpec(Component):
    """The hyperparameters of vectors of words that do not depend on how they are learned."""

    least_count: int = Field(
        default=5,
        ge=1,
        description="Times that a word is in the training rows, at least, to have a vector (gensim: min_count, GloVe: min-count).",
    )
    vocabulary: int = Field(
        default=0, ge=0, description="Words that have a vector, the most frequent; 0 takes all that are frequent enough."
    )
    words: int = Field(default=0, ge=0, description="Words that have a vector; filled in once the training rows are counted.")
    lowercase: bool = Field(default=True, description="Read texts in lower case.")
    analogies: str = Field(
        default="",
        description="A file of analogies to judge the vectors by, as questions-words.txt: four words a line, sections begin with a colon.",
    )
    similarities: str = Field(
        default="", description="A file of word pairs with a person's judgement to judge the vectors by: two words and a number a line."
    )


def show_words(vocabulary: Any, text: str) -> tuple[list[int], list[bool]]:
    """The words of a text that have a vector, all of them learned from where there is more than one."""
    words = [int(word) for word in vocabulary.encode(text)]
    return words, [len(words) > 1] * len(words)


def without_vector(vocabulary: Any, text: str) -> str:
    """How many words of a text are left out, for a person; empty where none are."""
    missing = len(vocabulary.split(text)) - len(vocabulary.encode(text))
    return (
        f"; {plural(missing, 'word')} of this row {'has' if missing == 1 else 'have'} no vector and {'is' if missing == 1 else 'are'} left out"
        if missing
        else ""
    )


class WordPieces(LazyExamples):
    """Rows as pieces of up to `LONGEST` words.

    Args:
        records: the rows.
        vocabulary: makes numbers of words.
        columns: that are read.
    """

    def __init__(self, records: Sequence[Record], vocabulary: Any, columns: Sequence[str]) -> None:
        self.records = records
        rows = [vocabulary.encode(record.text(columns)) for record in records]
        pieces = [max(1, -(-len(row) // LONGEST)) for row in rows]
        self.words = np.concatenate([np.empty(0, dtype=np.int32), *rows])
        self.owners = np.repeat(np.arange(len(rows)), pieces)
        firsts = np.cumsum(pieces) - pieces
        self.at = (np.arange(len(self.owners)) - np.repeat(firsts, pieces)) * LONGEST
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self.starts = (np.cumsum(lengths) - lengths)[self.owners] + self.at
        self.lengths = np.minimum(lengths[self.owners] - self.at, LONGEST)

    def __len__(self) -> int:
        return len(self.owners)

    def make(self, number: int) -> Example:
        """See `LazyExamples`."""
        start, length = self.starts.item(number), self.lengths.item(number)
        owner = self.owners.item(number)
        facts = {"at": self.at.item(number), "row": owner}
        inputs = {"tokens": self.words[start : start + length]}
        return Example(number, inputs, None, self.records[owner], max(length, 1), float(length > 1), facts=facts)
