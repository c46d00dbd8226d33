"""What a proof is, and what it may ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pydantic import Field

from luthier.core.component import Component
from luthier.core.interfaces import Objective, Processor, TrainableModel
from luthier.core.types import Batch, Example, Inputs, JsonObject, Record

SpecOfProof = TypeVar("SpecOfProof", bound=Component, covariant=True)
ProcessorOfProof = TypeVar("ProcessorOfProof", bound=Processor, covariant=True)


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
    evidence: JsonObject = Field(default_factory=dict)


class ProofContext(Protocol[SpecOfProof, ProcessorOfProof]):
    """What a proof has to work with: of a family with such hyperparameters and such a tokenizer."""

    @property
    def model(self) -> TrainableModel:
        """Assembled for this purpose; it is used up."""
        ...

    @property
    def objective(self) -> Objective:
        """Knows what a batch means."""
        ...

    @property
    def spec(self) -> SpecOfProof:
        """The hyperparameters of what is learned."""
        ...

    @property
    def tokenizer(self) -> ProcessorOfProof:
        """The base's."""
        ...

    @property
    def train(self) -> Sequence[Example]:
        """The training examples."""
        ...

    @property
    def read(self) -> list[Example]:
        """Those of them whose tokens are looked at."""
        ...

    @property
    def rows(self) -> list[Example]:
        """A few short ones, for the model."""
        ...

    @property
    def serve(self) -> Callable[[Record], Inputs]:
        """A row → what prediction would give the model."""
        ...

    @property
    def close(self) -> float:
        """How near two ways of computing the same must be."""
        ...

    def batch(self, rows: Sequence[Example]) -> Batch:
        """Rows as an evaluation would see them, on the model's device."""
        ...


ProofFunction = Callable[[ProofContext], Proof | None]
"""Its name, with spaces, is the proof's."""
CLOSE_FP32 = 1e-4
"""How near two ways of computing the same must be in fp32."""


def row_of(example: Example) -> JsonObject:
    """Where a person finds the row again."""
    return {"file": example.record.source, "line": example.record.row}
