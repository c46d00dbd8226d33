"""The protocols that the rooms fill: one loop, and an object that knows what a batch means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from luthier.core.finding import Finding
from luthier.core.types import Batch, Example, Loss, Record, Scores, Step

if TYPE_CHECKING:
    import torch

Watcher = Callable[[Step], None]
"""Anything that wants to see each step; it may raise to stop the run."""


class Objective(Protocol):
    """What is learned.

    `prepare` is called once, `collate` once a step, `loss` once a micro-batch. All randomness is keyed
    by (seed, step, example), so that the same call always gives the same tensors.
    """

    @property
    def splits(self) -> bool:
        """Whether a step may be cut into micro-batches without changing what is learned."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names in `evaluation.METRICS`; the first decides."""
        ...

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Records to examples; pure, so it can be cached."""
        ...

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """A whole step's tensors."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The loss of a micro-batch as a sum and a count."""
        ...

    def score(self, model: torch.nn.Module, batch: Batch) -> Scores:
        """Held-out losses (and probabilities) per example, without gradients."""
        ...


class Trainable(Protocol):
    """What an adaptation needs of a model: its blocks in order, and what is new on top of them."""

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """The transformer blocks, first to last."""
        ...

    @property
    def head(self) -> list[torch.nn.Module]:
        """What is new, and not part of the pretrained body."""
        ...

    @property
    def network(self) -> torch.nn.Module:
        """The module of transformers itself."""
        ...


class Face(Protocol):
    """Where a long verb says what it does; the terminal, a notebook, or nobody."""

    def stage(self, name: str, detail: str = "") -> None:
        """A part of the way begins."""
        ...

    def say(self, line: str) -> None:
        """Something a person should read."""
        ...

    def finding(self, finding: Finding) -> None:
        """An analysis has spoken."""
        ...

    def step(self, step: Step) -> None:
        """An optimizer step has happened."""
        ...

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """The validation rows were evaluated."""
        ...


class Silent:
    """The face that shows nothing."""

    def stage(self, name: str, detail: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def finding(self, finding: Finding) -> None:
        """Nothing."""

    def step(self, step: Step) -> None:
        """Nothing."""

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """Nothing."""
