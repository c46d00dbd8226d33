"""GloVe: vectors of words whose products, with a number for each word, are the logarithms of how often words stand near each other.

Source: Pennington, Socher & Manning 2014, "GloVe: Global vectors for word representation", equations 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.randomness import permutation
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.core.words import plural
from luthier.data.lazy_examples import LazyExamples
from luthier.evaluation.cooccurrences import count_pairs
from luthier.objectives.objective import BaseObjective
from luthier.objectives.word_pieces import WordVectorsSpec, show_words, without_vector

if TYPE_CHECKING:
    from torch import Tensor, nn

CELLS = 1024
"""Counts of an example, drawn evenly over the matrix."""
SURE = 2.0
"""A count below it says nothing of rows that stand for many more: with all counts the held-out loss rose on ten novels while analogies still got better, without these it fell."""
ROUNDING = 1e-9
"""What sums of parts of one may miss it by, as they are added up in another order."""
FEW = 2
"""Rows with fewer than one in so many words of the training rows stand for many more."""
LARGEST = 1 << 31
"""Words times rows that are counted at once: the square of it is a number of 64 bits."""
NAMED = 8
"""Pairs that an example is shown as."""


class Glove(WordVectorsSpec):
    """Learn vectors of words from how often words stand near each other."""

    kind: Literal["glove"] = "glove"
    width: int = Field(default=100, ge=2, le=2_000, description="Numbers of a vector (GloVe: vector-size).")
    window: int = Field(
        default=10, ge=1, le=64, description="Words to either side that count, one at distance d as 1/d (GloVe: window-size)."
    )
    most: float = Field(
        default=10.0,
        gt=0,
        description="A count from which on a pair weighs no more (GloVe: x-max; 100 for billions of words, 10 for millions).",
    )
    power: float = Field(default=0.75, ge=0, le=1, description="How a pair's weight grows with its count below that (GloVe: alpha).")

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> GloveObjective:
        """The objective at work.

        Args:
            tokenizer: the vocabulary.
            input: the columns that are read.
            target: None: the texts are their own target.
        """
        return GloveObjective(self, tokenizer, input, target)


class Counts(LazyExamples):
    """The counts of some rows as examples of at most `CELLS` counts each; an example is made when it is asked for.

    Args:
        first: a word of each pair, # (pairs,)
        second: the word near it, # (pairs,)
        logarithms: of the counts, as they would be in a text as long as the training rows, # (pairs,)
        weights: of the pairs in the loss, # (pairs,)
        words: the vocabulary's.
        records: the rows.
        owners: the row of each pair, in order, where an example holds counts of one row; None where pairs are added up over all rows, # (pairs,)
    """

    def __init__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        logarithms: np.ndarray,
        weights: np.ndarray,
        words: list[str],
        records: Sequence[Record],
        owners: np.ndarray | None = None,
    ) -> None:
        self.columns = {"tokens": first, "others": second, "logarithms": logarithms, "weights": weights}
        self.words, self.records, self.by_row = words, records, owners is not None
        lengths = np.array([len(first)] if owners is None else np.bincount(owners, minlength=len(records)))
        blocks = np.maximum(-(-lengths // CELLS), int(self.by_row))  # a row without counts is a row all the same
        self.rows = np.repeat(np.arange(len(lengths)), blocks)
        inside = (np.arange(len(self.rows)) - (np.cumsum(blocks) - blocks)[self.rows]) * CELLS
        self.starts = (np.cumsum(lengths) - lengths)[self.rows] + inside
        self.stops = np.minimum(self.starts + CELLS, np.cumsum(lengths)[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def make(self, number: int) -> Example:
        """See `LazyExamples`."""
        inputs = {name: values[self.starts[number] : self.stops[number]] for name, values in self.columns.items()}
        size, units = len(inputs["tokens"]), float(inputs["weights"].sum())
        if self.by_row:
            row = int(self.rows[number])
            return Example(number, inputs, None, self.records[row], max(size, 1), units, facts={"row": row})
        largest = np.argsort(-inputs["logarithms"], kind="stable")[:NAMED]
        listing = ", ".join(
            f"{self.words[int(inputs['tokens'][index])]} {self.words[int(inputs['others'][index])]}" for index in largest.tolist()
        )
        record = self.records[0] if len(self.records) == 1 else Record(number + 1, {"pairs": listing}, self.records[0].source)
        return Example(number, inputs, None, record, size, units, facts={"row": number})


class GloveObjective(BaseObjective[Glove, Any]):
    """See `Glove`."""

    unit = "weighted pair"
    metrics: tuple[str, ...] = ("log_count_error", "loss")

    def prepare(self, records: Sequence[Record]) -> Sequence[Example]:
        """Count the pairs of the rows; counts of fewer rows stand for as many words as were trained on.

        A pair's weight comes from its own count: the logarithm of a small count says little, whichever rows it was counted in. Where the rows are few
        (held-out ones), a pair that was met by chance once would stand for many: those of fewer than `SURE` are left out. The examples of held-out rows
        are these rows: a pair's weight is shared out among the rows that it was counted in, so that the loss of all stays what it is and each row has its part.
        """
        vocabulary, read_words = self.tokenizer, 0
        total = max(int(vocabulary.counts.sum()), 1)

        def texts(some: Sequence[Record]) -> Iterator[np.ndarray]:
            nonlocal read_words
            for record in some:
                words = vocabulary.encode(record.text(self.input))
                read_words += len(words)
                yield words

        owners = shares = None
        if self._are_trained_on(records):
            first, second, counts = count_pairs(texts(records), len(vocabulary), self._distances())
        else:
            owners, first, second, parts = self._count_by_row(records, texts)
            _, pair = np.unique(first * len(vocabulary) + second, return_inverse=True)
            counts = np.bincount(pair, parts)[pair] if len(pair) else parts
            shares = parts / counts
        if FEW * read_words < total and len(counts):
            sure = counts >= min(SURE, counts.max()) - ROUNDING
            first, second, counts = first[sure], second[sure], counts[sure]
            owners, shares = (None, None) if owners is None or shares is None else (owners[sure], shares[sure])
        weights = np.minimum(counts / self.spec.most, 1.0) ** self.spec.power
        if shares is not None:
            weights = weights * shares
        logarithms = np.log(counts) + math.log(total / max(read_words, 1))
        order = permutation(len(first), "cells") if owners is None else slice(None)
        columns = first.astype(np.int32), second.astype(np.int32), logarithms.astype(np.float32), weights.astype(np.float32)
        one, two, three, four = (column[order] for column in columns)
        return Counts(one, two, three, four, vocabulary.words, records, owners)

    def _are_trained_on(self, records: Sequence[Record]) -> bool:
        """Whether these are the training rows: where nobody has said which these are, any are."""
        known = self.tokenizer.trained_on
        return known is None or not records or (records[0].source, records[0].row) == known

    def _distances(self) -> np.ndarray:
        """What a pair counts at each distance, # (window,)"""
        return 1 / np.arange(1, self.spec.window + 1)

    def _count_by_row(
        self, records: Sequence[Record], texts: Callable[[Sequence[Record]], Iterator[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The row, the two words and the count of each pair of each row, in the order of the rows, # (pairs of rows,) each"""
        many = len(self.tokenizer)
        at_once = max(1, LARGEST // many)
        columns = []
        for start in range(0, len(records), at_once):
            some = records[start : start + at_once]
            apart = (words + index * many for index, words in enumerate(texts(some)))  # a word of each row has a number of its own
            one, two, counts = count_pairs((words.astype(np.int64) for words in apart), len(some) * many, self._distances())
            columns.append((one // many + start, one % many, two % many, counts))
        rows, first, second, counts = (np.concatenate(column) for column in zip(*columns, strict=True))
        return rows, first, second, counts

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The counts of the examples end to end."""
        import torch

        def flat(name: str, kind: Any) -> Tensor:
            return torch.from_numpy(np.concatenate([example.inputs[name] for example in examples]).astype(kind))

        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([len(example.tokens) for example in examples]),
            flat={
                "first": flat("tokens", np.int64),
                "second": flat("others", np.int64),
                "logarithms": flat("logarithms", np.float32),
                "weights": flat("weights", np.float32),
            },
            each={"row": torch.tensor([example.facts["row"] for example in examples])},
        )

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Weighted squared errors of the logarithms, summed; the sum of the weights is the count."""
        from luthier.objectives.log_bilinear import summed_loss

        network: Any = model.network
        return Loss(summed_loss(network, batch.flat), float(batch.flat["weights"].double().sum()))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss summed over the counts of each example, and the sum of their weights."""
        import torch

        from luthier.objectives.log_bilinear import errors

        network: Any = model.network
        weights = batch.flat["weights"].double()
        with torch.no_grad():
            losses = errors(network, batch.flat).double().square() * weights
        rows = torch.arange(len(batch), device=losses.device).repeat_interleave(batch.lengths)
        empty = torch.zeros(len(batch), dtype=torch.double, device=losses.device)
        loss, count = (empty.index_add(0, rows, values).cpu().numpy() for values in (losses, weights))
        return Scores(loss=loss, count=count, groups=batch.each["row"].cpu().numpy())

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The words of the row that have a vector."""
        return show_words(self.tokenizer, example.record.text(self.input))

    def describe_learned(self, example: Example) -> str:
        """How many pairs of words stand near each other in the row, and the most frequent ones."""
        text, vocabulary = example.record.text(self.input), self.tokenizer
        first, second, counts = count_pairs([vocabulary.encode(text)], len(vocabulary), self._distances())
        once = first <= second
        first, second, counts = first[once], second[once], counts[once]
        names = [
            f"{vocabulary.words[first[index]]} {vocabulary.words[second[index]]} {counts[index]:.3g}"
            for index in np.argsort(-counts, kind="stable")[:NAMED]
        ]
        summary = f"how often words stand near each other, up to {self.spec.window} apart, added up over all training rows"
        return f"{summary}; {plural(len(first), 'pair')} in this row{': ' if names else ''}{', '.join(names)}{without_vector(vocabulary, text)}"
