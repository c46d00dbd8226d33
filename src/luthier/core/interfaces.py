"""The protocols between rooms: objective, trainable model, adaptation, reporter, watcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from luthier.core.cache import Cache
from luthier.core.component import Component
from luthier.core.finding import Finding
from luthier.core.types import Batch, Example, Loss, Record, Scores, Step

if TYPE_CHECKING:
    import numpy as np
    import torch

Watcher = Callable[[Step], None]
"""Anything that wants to see each step; it may raise to stop the run."""


class Processor(Protocol):
    """What makes numbers of a row: a tokenizer, or what takes its place."""

    def save_pretrained(self, save_directory: Path, /) -> object:
        """Write it into a folder, from which it is loaded again."""
        ...


class Keys(Protocol):
    """What a network's dropout is a function of."""

    def set_keys(
        self, seed: int, step: int, index: torch.Tensor, lengths: torch.Tensor, streams: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """The keys of a micro-batch, for the time of its forward pass."""
        ...


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

    @property
    def spec(self) -> Component:
        """Its hyperparameters."""
        ...

    @property
    def tokenizer(self) -> Processor:
        """What makes numbers of a row: the base's tokenizer, or what takes its place."""
        ...

    @property
    def input(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    @property
    def unit(self) -> str:
        """What the loss counts, for a person: row, token."""
        ...

    @property
    def varies(self) -> str:
        """What `augment` may change of a row: texts, images, or nothing."""
        ...

    @property
    def drawn_tokens(self) -> Sequence[int] | None:
        """Tokens that `collate` may put in beside those of the examples; None: no others."""
        ...

    @property
    def writes(self) -> bool:
        """Whether it answers in words, that can be compared with references; the parts below are asked of such an objective alone."""
        ...

    @property
    def answered(self) -> int:
        """Validation rows that are answered at an evaluation."""
        ...

    @property
    def answered_at_verdict(self) -> int:
        """Test rows that each model of the verdict answers."""
        ...

    @property
    def answered_together(self) -> int:
        """Rows that are answered at once."""
        ...

    def rows_to_answer(self, examples: Sequence[Example], most: int) -> list[int]:
        """The places of the rows that are answered, at most so many; the same each time."""
        ...

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens of what is asked, and of what is to be said."""
        ...

    def prompt_text(self, example: Example) -> str:
        """What is asked, for a person."""
        ...

    def reference(self, example: Example) -> str:
        """What is to be said."""
        ...

    def answer(self, model: torch.nn.Module, examples: Sequence[Example], limit: int) -> list[str]:
        """What a model says to each of the rows, in so many tokens at most."""
        ...

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The tokens of a row for a person, and which of them are learned."""
        ...

    def describe_learned(self, example: Example) -> str:
        """What is learned from an example, in words, where its tokens do not tell; else empty."""
        ...

    def prepare(self, records: Sequence[Record]) -> Sequence[Example]:
        """Records to examples; pure, so it can be cached."""
        ...

    def fit(self, train: Sequence[Example]) -> None:
        """Take what has to be known of the training examples, such as class weights."""
        ...

    def begin(self, model: torch.nn.Module, examples: Sequence[Example], cache: Cache) -> None:
        """Take what has to be known of the model as it is before step one, such as what a reference model says of the rows.

        Args:
            model: assembled, with nothing trained yet; or the base, untouched.
            examples: that will be asked about.
            cache: where what took long is kept.
        """
        ...

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """A whole step's tensors, augmented where the experiment asks for it; in the step `HELD_OUT` as they are."""
        ...

    def prompt_tokens(self, example: Example) -> Sequence[int]:
        """The tokens that a prediction begins from."""
        ...

    def reference_loss(self, model: torch.nn.Module, example: Example) -> torch.Tensor | None:
        """An example's summed loss by the library's own forward pass, from the definition; None where there is none."""
        ...

    def swap_inputs(self, examples: Sequence[Example]) -> list[Example]:
        """The same targets, each behind the input of another example; empty where the two cannot be taken apart."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The loss of a micro-batch as a sum and a count."""
        ...

    def score(self, model: torch.nn.Module, batch: Batch) -> Scores:
        """Held-out losses (and probabilities) per example, without gradients."""
        ...

    def complete(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """The scores of all held-out rows, with what can only be said of all of them together, such as a rank among them.

        Args:
            scores: of the batches, put together.
            examples: the rows, in the same order.
        """
        ...

    def of_each_row(self, scores: Scores) -> np.ndarray:
        """What the scores say of each row whatever rows stand beside it: its loss, or its vectors, # (examples, numbers)"""
        ...


class TrainableModel(Protocol):
    """A network as the loop, the adaptations and the checkpoints see it; it is an `nn.Module` too."""

    @property
    def packs(self) -> bool:
        """Whether rows go through it end to end, so that frozen layers' outputs can be kept by row."""
        ...

    @property
    def dropout_keys(self) -> Keys:
        """The keys of its dropout, by (seed, step, example)."""
        ...

    def micro_batches(self, batch: Batch, limit: int) -> list[Batch]:
        """The batch in micro-batches that cost at most so much."""
        ...

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

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Its weights and biases."""
        ...


class Adaptation(Protocol):
    """Which parameters move, and when; its hyperparameters are a component."""

    @property
    def kind(self) -> str:
        """Its name in `adaptation.ADAPTATIONS`."""
        ...

    @property
    def layer_decay(self) -> float:
        """The multiple of the learning rate at which each block learns, of that of the block above it."""
        ...

    def attach(self, model: TrainableModel) -> None:
        """Prepare a network that nothing was done to: freeze its blocks, or put adapters beside its layers."""
        ...

    def on_progress(self, model: TrainableModel, share: float) -> None:
        """Freeze or free what is due.

        Args:
            model: that it is attached to.
            share: the done share of the run, 0 to 1.
        """
        ...

    def frozen_blocks(self, model: TrainableModel, share: float) -> int:
        """How many blocks are frozen at this share of the run."""
        ...


class Reporter(Protocol):
    """Shows the progress of a long command: in a terminal, in a notebook, or nowhere."""

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


class NullReporter:
    """A reporter that shows nothing."""

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
