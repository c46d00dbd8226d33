"""The inputs of a proof: the assembled model, a few rows, and a time limit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from luthier.core.component import Component
from luthier.core.interfaces import Adaptation, Objective, Processor
from luthier.core.proof import CLOSE_FP32
from luthier.core.randomness import permutation
from luthier.core.types import HELD_OUT, Batch, Example, Inputs, Record
from luthier.models.buffers import keep_buffers
from luthier.models.trainable import TrainableNetwork
from luthier.training.steps import Work

READ = 2_000
"""Rows whose tokens are looked at; the model itself sees four short ones."""
CLOSE = {torch.float32: CLOSE_FP32, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""How near two ways of computing the same must be, by the dtype of the weights."""


@dataclass
class ProofInputs:
    """What a proof has to work with.

    Args:
        work: assembled for this purpose; it is used up.
        serve: a row → what prediction would give the model.
        rows: a few short training examples.
        until: when the time is up, on `time.monotonic`.
    """

    work: Work
    serve: Callable[[Record], Inputs]
    rows: list[Example]
    until: float

    @property
    def model(self) -> TrainableNetwork:
        """Assembled for this purpose; it is used up."""
        return self.work.model

    @property
    def objective(self) -> Objective:
        """Knows what a batch means."""
        return self.work.objective

    @property
    def spec(self) -> Component:
        """The hyperparameters of what is learned."""
        return self.work.experiment.objective

    @property
    def train(self) -> Sequence[Example]:
        """The training examples."""
        return self.work.train

    @property
    def tokenizer(self) -> Processor:
        """The base's."""
        return self.work.objective.tokenizer

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
        """The rows as an evaluation would see them, on the model's device."""
        work = self.work
        return work.objective.collate(rows, work.experiment.seed, HELD_OUT).to(next(work.model.parameters()).device)


@contextlib.contextmanager
def all_blocks_moving(work: Work) -> Iterator[None]:
    """The model in the modes in which training has it when all moves that ever will, with nothing left out of frozen blocks; afterwards as before.

    Args:
        work: at its beginning.
    """
    adaptation = cast(Adaptation, work.experiment.adaptation)
    kept_states, work.model.frozen_cache = getattr(work.model, "frozen_cache", None), None
    adaptation.on_progress(work.model, 1.0)
    try:
        with keep_buffers(work.model):
            yield
    finally:
        adaptation.on_progress(work.model, 0.0)
        work.model.frozen_cache = kept_states
