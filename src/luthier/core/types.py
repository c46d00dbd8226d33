"""The data types that pass between rooms: record, example, batch, loss, scores, step."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

HELD_OUT = -1
"""The step of an evaluation, for `Objective.collate`: nothing is augmented, and what is drawn at random is the same each time."""

Link = Literal["softmax", "sigmoid", "identity"]
"""What makes of a head's outputs what is said: probabilities that sum to 1, a probability each, or the outputs themselves."""

Inputs = Mapping[str, "Sequence[int] | np.ndarray"]
"""What goes into the model of one row, by name: {"tokens": token ids} of a text, {"pixels": an array} of an image."""

JsonObject = dict[str, object]
"""A JSON object: an answer, a part of a report."""

Message = dict[str, str]
"""One turn of a conversation: `role` and `content`."""


@dataclass(frozen=True)
class Record:
    """One row as read.

    Args:
        row: where it stands in its file, counted from 1 without the header.
        values: column → what stood there, unchanged.
        source: the file it came from.
    """

    row: int
    values: Mapping[str, Any]
    source: str = ""

    def select(self, columns: Container[str]) -> Record:
        """The same with nothing but some of its columns."""
        return replace(self, values={name: value for name, value in self.values.items() if name in columns})

    def text(self, columns: Iterable[str]) -> str:
        """What stands in some columns as one text, an empty line between them."""
        return "\n\n".join(str(self.values.get(name) or "") for name in columns)


@dataclass(frozen=True)
class Cut:
    """A text of a row that is longer than a model reads.

    Args:
        columns: that hold it; several that are read together are one text.
        tokens: that it has.
        read: how many of them the model reads, fewer than it has.
    """

    columns: tuple[str, ...]
    tokens: int
    read: int

    @property
    def lost(self) -> int:
        """Tokens that are not read."""
        return self.tokens - self.read


@dataclass(frozen=True)
class Example:
    """One row ready to be collated.

    Args:
        index: its number in the whole data set; randomness is keyed by it.
        inputs: what goes into the model, by name: {"tokens": token ids} for text, {"pixels": an array} for an image.
        target: what is to be learned: a class number, numbers, or which tokens are learned; None where the inputs are their own target.
        record: the row it was made from, to be shown.
        size: what it costs: tokens, or whatever else the time of a step grows with; 1 or more.
        units: loss terms that it teaches; 0 where nothing is learned from it.
        stratum: its class, where training may draw the classes equally often.
        facts: what else the objective keeps about the row (bytes of the answer, truncation).
    """

    index: int
    inputs: Mapping[str, Any]
    target: Any
    record: Record
    size: int
    units: float = 1.0
    stratum: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> Any:
        """Its token ids, where it is text."""
        return self.inputs["tokens"]


@dataclass(frozen=True)
class Stream:
    """A further sequence for each example of a batch, such as what a decoder reads.

    Args:
        lengths: entries that belong to each example, # (examples,)
        values: one entry a token, # name → (tokens, …)
    """

    lengths: torch.Tensor
    values: Mapping[str, torch.Tensor]

    def to(self, place: torch.device) -> Stream:
        """The stream on a device."""
        return Stream(self.lengths.to(place), {name: tensor.to(place) for name, tensor in self.values.items()})

    def part(self, start: int, stop: int) -> Stream:
        """The examples from `start` up to `stop`, as views."""
        offsets = self.lengths.cumsum(0)
        first, last = int(offsets[start - 1]) if start else 0, int(offsets[stop - 1]) if stop else 0
        return Stream(self.lengths[start:stop], {name: tensor[first:last] for name, tensor in self.values.items()})


@dataclass(frozen=True)
class Batch:
    """One step's tensors, the rows end to end and without padding.

    Args:
        index: which examples these are, # (examples,)
        lengths: entries of `flat` that belong to each example; where there are none, what each costs, # (examples,)
        flat: one entry a token, # name → (tokens, …)
        each: one entry an example, # name → (examples, …)
        streams: further sequences, by name.
    """

    index: torch.Tensor
    lengths: torch.Tensor
    flat: Mapping[str, torch.Tensor]
    each: Mapping[str, torch.Tensor]
    streams: Mapping[str, Stream] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        """What the batch costs: the sizes of its examples together."""
        return int(self.lengths.sum()) + sum(int(stream.lengths.sum()) for stream in self.streams.values())

    @property
    def stream_lengths(self) -> dict[str, torch.Tensor]:
        """Of each further sequence, the entries that belong to each example, # name → (examples,)"""
        return {name: stream.lengths for name, stream in self.streams.items()}

    def to(self, place: torch.device) -> Batch:
        """The batch on a device."""
        if self.index.device == place:
            return self
        flat = {name: tensor.to(place) for name, tensor in self.flat.items()}
        each = {name: tensor.to(place) for name, tensor in self.each.items()}
        streams = {name: stream.to(place) for name, stream in self.streams.items()}
        return Batch(index=self.index.to(place), lengths=self.lengths.to(place), flat=flat, each=each, streams=streams)

    def part(self, start: int, stop: int) -> Batch:
        """The examples from `start` up to `stop`, as views."""
        main = Stream(self.lengths, self.flat).part(start, stop)
        return Batch(
            index=self.index[start:stop],
            lengths=main.lengths,
            flat=main.values,
            each={name: tensor[start:stop] for name, tensor in self.each.items()},
            streams={name: stream.part(start, stop) for name, stream in self.streams.items()},
        )

    def split(self, limit: int, shared: np.ndarray | None = None) -> list[Batch]:
        """Cut into micro-batches that cost at most so much (one example may exceed it).

        Args:
            limit: of tokens, or of what else `lengths` counts; 1 or more.
            shared: tokens that an example does not add where another one is in the same piece; what a piece's first two
                have in common comes on top of the limit, # (examples, examples)
        """
        lengths, parts, start, cost = self.lengths.tolist(), [], 0, 0
        for stream in self.streams.values():
            lengths = [length + more for length, more in zip(lengths, stream.lengths.tolist(), strict=True)]

        def added_cost(position: int) -> int:
            """What an example adds to the piece that begins at `start`; the first of a piece is beside the one behind it."""
            others = slice(start, position) if position > start else slice(position + 1, position + 2)
            common = 0 if shared is None else shared[position, others].max(initial=0)
            return max(lengths[position] - int(common), 1)

        for position in range(len(self)):
            if position > start and cost + added_cost(position) > limit:
                parts.append(self.part(start, position))
                start, cost = position, 0
            cost += added_cost(position)
        parts.append(self.part(start, len(self)))
        return parts


@dataclass(frozen=True)
class Loss:
    """A micro-batch's loss, not yet divided.

    Args:
        total: the sum over what is learned, # ()
        count: what the sum will be divided by (tokens, examples, or the sum of their weights).
    """

    total: torch.Tensor
    count: float


@dataclass(frozen=True)
class Scores:
    """What a model says about a batch of held-out examples.

    Args:
        loss: the unweighted, unsmoothed loss summed per example, # (examples,)
        count: learned units per example, # (examples,)
        target: the right class where there are classes, # (examples,)
        probabilities: class probabilities where there are classes, # (examples, classes)
        bytes: UTF-8 bytes of what is learned where it is text, # (examples,)
        labels: the classes by name, in the order of their numbers; empty where nobody knows them.
        outputs: generated answers, None for rows that were given none, # (examples,)
        references: what was to be said, # (examples,)
        groups: the number of what each example is a part of (a document), where examples are no rows: such are resampled together, # (examples,)
        more: what else a family's metrics need, # name → (examples, …)
    """

    loss: np.ndarray
    count: np.ndarray
    target: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    bytes: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    outputs: np.ndarray | None = None
    references: np.ndarray | None = None
    groups: np.ndarray | None = None
    more: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows these are: the groups, where examples are parts of rows."""
        if self.groups is None:
            return len(self.loss)
        import numpy

        return len(numpy.unique(self.groups))

    @property
    def answered(self) -> int:
        """How many rows were given an answer in words; all of them where nobody generated any."""
        return self.rows if self.outputs is None else sum(output is not None for output in self.outputs)

    def part(self, rows: np.ndarray) -> Scores:
        """The scores of some of the rows, in the given order (with repetition)."""
        columns = {name: value[rows] for name, value in vars(self).items() if name not in ("labels", "more") and value is not None}
        return Scores(**columns, labels=self.labels, more={name: value[rows] for name, value in self.more.items()})


@dataclass(frozen=True)
class Step:
    """One optimizer step that has just happened: what watchers see.

    Args:
        number: counted from 1.
        total: how many steps the run will take.
        loss: mean over what was learned in this step, 0 where nothing was; a NaN stays a NaN.
        count: what the loss was divided by.
        tokens: tokens that went through the model.
        examples: rows that went through the model.
        lr: the learning rate used.
        gradient_norm: before clipping.
        epoch: how many times the training rows have been seen.
        evaluation: the most recent evaluation on the validation rows: its `step` and its metrics; None before the first.
    """

    number: int
    total: int
    loss: float
    count: float
    tokens: int
    examples: int
    lr: float
    gradient_norm: float
    epoch: float
    evaluation: dict[str, Any] | None = None
    _requests: list[str] = field(default_factory=list, repr=False, compare=False)

    def stop(self) -> None:
        """End the training after this step; the run is still judged, reported and shipped."""
        self._requests.append("stop")

    @property
    def stopping(self) -> bool:
        """Whether a watcher has asked for the end of the training."""
        return bool(self._requests)
