"""The words that travel between rooms, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

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


@dataclass(frozen=True)
class Example:
    """One row ready to be collated.

    Args:
        index: its number in the whole data set; randomness is keyed by it.
        tokens: token ids.
        target: what is to be learned: a class number, or which tokens are learned.
        record: the row it was made from, to be shown.
        facts: what else the objective keeps about the row (bytes of the answer, truncation).
    """

    index: int
    tokens: list[int]
    target: Any
    record: Record
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One step's tensors, the rows end to end and without padding.

    Args:
        index: which examples these are, # (examples,)
        lengths: entries of `flat` that belong to each example, # (examples,)
        flat: one entry a token, # name → (tokens, …)
        each: one entry an example, # name → (examples, …)
    """

    index: torch.Tensor
    lengths: torch.Tensor
    flat: Mapping[str, torch.Tensor]
    each: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, place: torch.device) -> Batch:
        """The batch on a device."""
        if self.index.device == place:
            return self
        flat = {name: tensor.to(place) for name, tensor in self.flat.items()}
        each = {name: tensor.to(place) for name, tensor in self.each.items()}
        return Batch(index=self.index.to(place), lengths=self.lengths.to(place), flat=flat, each=each)

    def part(self, start: int, stop: int) -> Batch:
        """The examples from `start` up to `stop`, as views."""
        offsets = self.lengths.cumsum(0)
        first = int(offsets[start - 1]) if start else 0
        last = int(offsets[stop - 1]) if stop else 0
        return Batch(
            index=self.index[start:stop],
            lengths=self.lengths[start:stop],
            flat={name: tensor[first:last] for name, tensor in self.flat.items()},
            each={name: tensor[start:stop] for name, tensor in self.each.items()},
        )

    def split(self, token_limit: int, saved: np.ndarray | None = None) -> list[Batch]:
        """Cut into micro-batches of at most `token_limit` tokens (one example may exceed it).

        Args:
            token_limit: 1 or more.
            saved: tokens that an example does not add where another one is in the same piece; what a piece's first two
                have in common comes on top of the limit, # (examples, examples)
        """
        lengths, parts, start, held = self.lengths.tolist(), [], 0, 0

        def added(position: int) -> int:
            """What an example adds to the piece that begins at `start`; the first of a piece is beside the one behind it."""
            others = slice(start, position) if position > start else slice(position + 1, position + 2)
            shared = 0 if saved is None else saved[position, others].max(initial=0)
            return max(lengths[position] - int(shared), 1)

        for position in range(len(self)):
            if position > start and held + added(position) > token_limit:
                parts.append(self.part(start, position))
                start, held = position, 0
            held += added(position)
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
    """

    loss: np.ndarray
    count: np.ndarray
    target: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    bytes: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    outputs: np.ndarray | None = None
    references: np.ndarray | None = None

    def part(self, rows: np.ndarray) -> Scores:
        """The scores of some of the rows, in the given order (with repetition)."""
        columns = {name: value[rows] for name, value in vars(self).items() if name != "labels" and value is not None}
        return Scores(**columns, labels=self.labels)


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
        rate: the learning rate used.
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
    rate: float
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
