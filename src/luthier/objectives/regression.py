"""Regression: a number for a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.objectives.text_rows import MAX_LENGTH, Head, LongRows, MaxLength, MostWindows, Overlap, Pooling, TextObjective

if TYPE_CHECKING:
    import torch
    from torch import nn


Mean = Annotated[float | None, Field(description="Of the targets: it is taken off them; from the training rows when unset.")]
Spread = Annotated[
    float | None, Field(gt=0, description="Standard deviation of the targets: they are divided by it; from the training rows when unset.")
]


class Regression(Component):
    """Learn a number that stands beside a text, or beside two texts read together."""

    kind: Literal["regression"] = "regression"
    mean: Mean = None
    spread: Spread = None
    pooling: Pooling = "auto"
    head: Head = "new"
    max_length: MaxLength = MAX_LENGTH
    long_rows: LongRows = "cut"
    overlap: Overlap = 32
    most_windows: MostWindows = 16

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> RegressionObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns that are read.
            target: the column that is learned.
        """
        return RegressionObjective(self, tokenizer, input, target)


def number_of(cell: Any) -> float:
    """A cell as a finite number; NaN where it is none.

    >>> number_of(" 3.5 "), number_of("3_5"), number_of(True)
    (3.5, nan, nan)
    """
    if isinstance(cell, bool) or not isinstance(cell, int | float | str) or (isinstance(cell, str) and "_" in cell):
        return math.nan
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def scores_of_numbers(predicted: np.ndarray, actual: np.ndarray, spread: float) -> Scores:
    """Predictions as scores: the loss is the squared error in standard deviations.

    Args:
        predicted: in the target's own unit, # (examples,)
        actual: the same, NaN where nobody knows, # (examples,)
        spread: standard deviation of the training targets.
    """
    return Scores(((predicted - actual) / spread) ** 2, np.ones(len(actual)), more={"predicted": predicted, "actual": actual})


class RegressionObjective(TextObjective):
    """See `Regression`."""

    metrics: tuple[str, ...] = ("rmse", "mae", "spearman", "loss")
    learned = "number"

    @property
    def mean(self) -> float:
        """Of the training targets."""
        return self.spec.mean or 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of the training targets."""
        return self.spec.spread or 1.0

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows; the target stays in its own unit."""
        if not records:
            return []
        targets = [number_of(record.values.get(self.target or "")) for record in records]
        return self.make_examples(records, targets, math.isfinite, spread=self.spread)

    def targets(self, examples: Sequence[Example]) -> torch.Tensor:
        """How many standard deviations each lies above the mean, # (examples,)"""
        import torch

        return torch.tensor([(example.target - self.mean) / self.spread for example in examples], dtype=torch.float64)

    def scores_of(self, outputs: np.ndarray, examples: Sequence[Example]) -> Scores:
        """What somebody says whose numbers these are, as scores.

        Args:
            outputs: in standard deviations above the mean, # (examples, 1)
            examples: of the same rows.
        """
        actual = self.targets(examples).numpy() * self.spread + self.mean
        return scores_of_numbers(outputs[:, 0] * self.spread + self.mean, actual, self.spread)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The squared error in standard deviations, summed; every row counts one."""
        predicted = model(batch).float()[:, 0]
        return Loss((predicted - batch.each["target"].float()).square().sum(), float(len(batch)))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """What is predicted and what is there, in the target's own unit."""
        import torch

        with torch.no_grad():
            predicted = model(batch).float()[:, 0].double().cpu().numpy()
        actual = batch.each["target"].cpu().numpy()
        return scores_of_numbers(predicted * self.spread + self.mean, actual * self.spread + self.mean, self.spread)
