"""What a proof is, and what it has to work with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field

from luthier.core.component import Component
from luthier.core.randomness import permutation
from luthier.core.types import Batch, Example, Record
from luthier.models.buffers import keep_buffers
from luthier.training.steps import Work

READ = 2_000
"""Rows whose tokens are looked at; the model itself sees four short ones."""
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""How near two ways of computing the same must be, by the dtype of the weights."""


class Proof(Component):
    """One thing that must be so, and whether it is.

    Args:
        name: of the proof; filled in by who asks.
        held: whether it is so; None where it could not be tried.
        claim: one sentence.
        evidence: the numbers, and the row that speaks against it.
    """

    name: str = ""
    held: bool | None
    claim: str
    evidence: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Question:
    """What a proof has to work with.

    Args:
        work: assembled for this purpose; it is used up.
        serve: a row → the tokens that prediction would give the model.
        rows: a few short training examples.
        until: when the time is up, on `time.monotonic`.
    """

    work: Work
    serve: Callable[[Record], list[int]]
    rows: list[Example]
    until: float

    @property
    def chat(self) -> bool:
        """Whether text is learned, rather than a class."""
        return bool(self.work.train) and isinstance(self.work.train[0].target, list)

    @property
    def tokenizer(self) -> Any:
        """The base's."""
        return self.work.objective.tokenizer  # type: ignore[attr-defined]

    @property
    def close(self) -> float:
        """How near two ways of computing the same must be."""
        return CLOSE[next(self.work.model.parameters()).dtype]

    @property
    def read(self) -> list[Example]:
        """The examples whose tokens are looked at."""
        train = self.work.train
        return [train[row] for row in sorted(permutation(len(train), "proofs")[:READ].tolist())]

    def batch(self, rows: Sequence[Example]) -> Batch:
        """The rows as a step would see them, on the model's device."""
        work = self.work
        return work.objective.collate(rows, work.experiment.seed, 0).to(next(work.model.parameters()).device)


def row_of(example: Example) -> dict[str, Any]:
    """Where a person finds the row again."""
    return {"file": example.record.source, "line": example.record.row}


@contextlib.contextmanager
def as_at_the_end(work: Work) -> Iterator[None]:
    """The model in the modes in which training has it when all moves that ever will, with nothing left out of frozen blocks; afterwards as before.

    Args:
        work: at its beginning.
    """
    adaptation: Any = work.experiment.adaptation
    kept_states, work.model.prefix = getattr(work.model, "prefix", None), None
    adaptation.on_progress(work.model, 1.0)
    try:
        with keep_buffers(work.model):
            yield
    finally:
        adaptation.on_progress(work.model, 0.0)
        work.model.prefix = kept_states
