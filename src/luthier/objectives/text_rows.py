"""How rows of texts become tokens, for every objective that reads a row and says one thing of it: a class, a number, several labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from luthier.core.types import Batch, Cut, Example, Record
from luthier.objectives.objective import BaseObjective, surely_fits

if TYPE_CHECKING:
    import torch

Pooling = Annotated[
    Literal["auto", "cls", "mean", "last"],
    Field(
        description="What the head reads of a row: the first token through the base's own head (cls), the mean of all, or the last; auto is cls for encoders and last for decoders."
    ),
]
Head = Annotated[
    Literal["new", "probe"],
    Field(
        description="Where the head begins: new: random weights; probe: a linear model (logistic regression; of numbers ridge regression) on what the untouched base gives it of the training rows, which pays where a class or a label has few rows."
    ),
]
MAX_LENGTH = 256
"""Tokens that are read at once if nobody says otherwise."""
MaxLength = Annotated[int, Field(ge=8, description="Tokens that are read at once; `long_rows` says what becomes of longer rows.")]
LongRows = Annotated[
    Literal["cut", "windows"],
    Field(description="cut: a longer row loses its end, counted; windows: it is read in pieces, and their mean decides once for the row."),
]
Overlap = Annotated[int, Field(ge=0, description="Tokens that a window shares with the one before it.")]
MostWindows = Annotated[int, Field(ge=1, description="Windows a row may have; what lies behind them is lost, counted.")]


class TextObjective(BaseObjective):
    """Reads a text, or two texts together; what is learned of them is for the objective to say."""

    varies = "texts"
    learned = "class"
    """What each row has to be learned from, for a person."""
    reads_pairs = True
    """Whether two columns are read together, as the base was trained to read pairs; otherwise they are joined, as more of them are."""

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Records to examples."""
        raise NotImplementedError

    def targets(self, examples: Sequence[Example]) -> torch.Tensor:
        """What is to be learned of each, # (examples, …)"""
        raise NotImplementedError

    def tokenize(self, records: Sequence[Record]) -> Iterator[tuple[dict[str, list[int]], int]]:
        """The tokens of each row, and how many were cut; a pair of columns is encoded as the base was trained to read pairs."""
        if self._is_pair:
            return self._tokenize_cut([[record.text([name]) for record in records] for name in self.input])
        texts = [record.text(self.input) for record in records]
        return self._tokenize_windows(texts) if self.windowed else self._tokenize_cut([texts])

    def make_examples(
        self, records: Sequence[Record], targets: Sequence[Any], learns: Callable[[Any], bool], strata: bool = False, **facts: Any
    ) -> list[Example]:
        """The rows with their tokens, ready to be collated.

        Args:
            records: rows.
            targets: what is learned of each.
            learns: whether something is learned from a target.
            strata: whether a target is the row's class.
            facts: kept about every row, beside the tokens that were cut.
        """
        return [
            Example(
                index=position,
                inputs=inputs,
                target=target,
                record=record,
                size=len(inputs["tokens"]),
                units=float(learns(target)),
                stratum=target if strata else None,
                facts={"cut": cut, **facts},
            )
            for position, (record, target, (inputs, cut)) in enumerate(zip(records, targets, self.tokenize(records), strict=True))
        ]

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The rows that have more tokens than are read."""
        found: list[tuple[Cut, ...]] = [() for _ in records]
        long = [index for index, record in enumerate(records) if not surely_fits(record.text(self.input), self.spec.max_length)]
        read = self.tokenize([records[index] for index in long]) if long else ()
        for index, (_, lost) in zip(long, read, strict=True):
            if lost:
                texts = [records[index].text([name]) for name in self.input] if self._is_pair else [records[index].text(self.input)]
                tokens = len(self.tokenizer(*texts, truncation=False, verbose=False)["input_ids"])
                found[index] = (Cut(tuple(self.input), tokens, tokens - lost),)
        return found

    def remedy_for_cuts(self) -> str:
        """Windows; where there are windows already, more of them; where two texts are read together, only a larger length."""
        if self.windowed:
            return "a larger objective.most_windows"
        return "a larger objective.max_length" if self._is_pair else "objective.long_rows=windows or a larger objective.max_length"

    @property
    def windowed(self) -> bool:
        """Whether long rows are read in pieces; two texts that are read together are not."""
        return self.spec.long_rows == "windows" and not self._is_pair

    @property
    def _is_pair(self) -> bool:
        return self.reads_pairs and len(self.input) == 2

    def _tokenize_cut(self, texts: list[list[str]]) -> Iterator[tuple[dict[str, list[int]], int]]:
        """The first tokens of each row, as many as are read, and how many were cut."""
        whole = self.tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.spec.max_length, return_token_type_ids=len(texts) == 2)
        for position, tokens in enumerate(encoded["input_ids"]):
            segments = {"segments": encoded["token_type_ids"][position]} if len(texts) == 2 else {}
            yield {"tokens": tokens, **segments}, len(whole[position]) - len(tokens)

    def _tokenize_windows(self, texts: list[str]) -> Iterator[tuple[dict[str, list[int]], int]]:
        """The tokens of each row's windows end to end, with each token's place in its window, and how many tokens lie behind the last window."""
        longest, overlap = self.spec.max_length, min(self.spec.overlap, self.spec.max_length // 2)
        encoded = self.tokenizer(texts, truncation=True, max_length=longest, stride=overlap, return_overflowing_tokens=True)
        again = overlap + self.tokenizer.num_special_tokens_to_add()  # of each window, what is not new in it
        rows: list[list[list[int]]] = [[] for _ in texts]
        for row, piece in zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], strict=True):
            rows[row].append(piece)
        for pieces in rows:
            windows, lost = pieces[: self.spec.most_windows], pieces[self.spec.most_windows :]
            tokens = [token for piece in windows for token in piece]
            places = [index for piece in windows for index in range(len(piece))]
            yield {"tokens": tokens, "place": places}, sum(len(piece) - again for piece in lost)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end (and, for rows in windows, each token's place in its window), and what is to be learned of each row."""
        import torch

        if self.changes(step):
            examples = self._augment(examples, seed, step)
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={name: torch.tensor([value for example in examples for value in example.inputs[name]]) for name in examples[0].inputs},
            each={"target": self.targets(examples)},
        )

    def _augment(self, examples: Sequence[Example], seed: int, step: int) -> list[Example]:
        """The rows as they are learned from in this step: some of their texts changed."""
        augment, rows = self.augment, []
        assert augment is not None
        for row in examples:
            if augment.changes(seed, step, row.index):
                values: dict[str, Any] = {
                    name: augment.view(str(row.record.values.get(name) or ""), seed, step, row.index) for name in self.input
                }
                (changed,) = self.prepare([replace(row.record, values={**row.record.values, **values})])
                row = replace(changed, index=row.index)
            rows.append(row)
        return rows
