"""What autoencoders share: rows are reconstructed, rows that are reconstructed badly are unusual, and only normal rows are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.errors import DataError, ExperimentError
from luthier.core.randomness import mix
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.objectives.objective import BaseObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

FLAT = 1 / 127.5
"""Contrast that every image is taken to have besides its own, one step of grey: the error of a blank one would be divided by nothing."""
Score = Literal["relative", "error"]


class AnomalySpec(Component):
    """The hyperparameters of an objective that finds unusual rows."""

    false_alarms: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Share of normal rows that may be called anomalous; the threshold is fitted on validation rows.",
    )
    normal: str | None = Field(default=None, description="The class that is normal; filled in from data.normal.")


def anomaly_of(squared: np.ndarray, numbers: np.ndarray, how: Score) -> np.ndarray:
    """How unusual rows are, # (examples,)

    Args:
        squared: the squared error of each row, summed over its numbers, # (examples,)
        numbers: the images from -1 to 1, or the vectors of texts, # (examples, numbers)
        how: `relative` or `error`.
    """
    count = numbers.shape[1]
    if how == "error":
        return squared / count
    return squared / (count * (numbers.var(1) + FLAT**2))


def scores_of_rows(squared: np.ndarray, more: np.ndarray, numbers: np.ndarray, abnormal: np.ndarray, how: Score) -> Scores:
    """Reconstructions as scores; the loss of rows that are known to be abnormal counts nothing.

    Args:
        squared: the squared error of each row, summed over its numbers, # (examples,)
        more: what the loss of each counts besides the error, # (examples,)
        numbers: the images from -1 to 1, or the vectors of texts, # (examples, numbers)
        abnormal: 1, 0, or -1 where nobody knows, # (examples,)
        how: what makes a row unusual.
    """
    learned = abnormal <= 0
    return Scores(
        loss=np.where(learned, squared + more, 0.0),
        count=np.where(learned, float(numbers.shape[1]), 0.0),
        more={"anomaly": anomaly_of(squared, numbers, how), "abnormal": abnormal},
    )


class AnomalyObjective(BaseObjective):
    """Rows are reconstructed; what is known to be abnormal is not learned from."""

    metrics: tuple[str, ...] = ("loss",)

    def __init__(self, spec: Any, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        if spec.normal and target:
            self.metrics = ("loss", "anomaly_auc")

    @property
    def how(self) -> Score:
        """What makes a row unusual."""
        return "error"

    def known_kind(self, record: Record) -> int:
        """Whether a row is known to be abnormal (1) or normal (0); -1 where nobody knows."""
        label = record.values.get(self.target) if self.target else None
        if not self.spec.normal or label is None or not str(label).strip():
            return -1
        return int(str(label) != self.spec.normal)

    def fit(self, train: Sequence[Example]) -> None:
        """Nothing is fitted; rows that are abnormal must not be learned from.

        Raises:
            DataError: there are such rows.
            ExperimentError: the metric needs classes, and none are known.
        """
        wrong = next((example for example in train if example.facts["abnormal"] > 0), None)
        if wrong is not None:
            raise DataError(
                f"{wrong.record.source}, row {wrong.record.row} has the class {wrong.facts['label']!r}, and only {self.spec.normal!r} is to be learned",
                f"name the class that is normal with --set data.normal={self.spec.normal}, and not under objective",
            )
        if self.metrics[0] == "anomaly_auc" and not self.spec.normal:
            raise ExperimentError("the metric anomaly_auc needs rows that are known to be normal or not", "name the column with --target and the class with --set data.normal=CLASS, or leave --metric out")  # fmt: skip

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The squared error summed over the numbers of the rows, and what counts besides; the count is that of the numbers."""
        squared, apart, target = self._errors(model, batch)
        learned = batch.each["learned"]
        return Loss(((squared + apart) * learned).sum(), float(learned.sum()) * target[0].numel())

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss of each row, and how unusual it is."""
        import torch

        with torch.no_grad():
            squared, apart, target = self._errors(model, batch)
        abnormal = batch.each["abnormal"].cpu().numpy()
        error, besides = squared.double().cpu().numpy(), apart.double().cpu().numpy()
        scores = scores_of_rows(error, besides, target.flatten(1).double().cpu().numpy(), abnormal, self.how)
        flagged = (scores.more["anomaly"] > float(cast(Any, model).network.threshold)).astype(np.uint8)
        return Scores(scores.loss, scores.count, more={**scores.more, "flagged": flagged})

    def _errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's squared error, what its loss counts besides, and its target, # (examples,), (examples,), (examples, …)"""
        raise NotImplementedError


def normal_draws(rows: np.ndarray, count: int, seed: int, what: str, step: int) -> np.ndarray:
    """Numbers from a normal distribution, the same for the same seed, step and row, # (rows, count) of float32

    Source: Box & Muller 1958.

    Args:
        rows: numbers of the examples, # (rows,)
        count: numbers for each.
        seed: of the experiment.
        what: they are for.
        step: counted from 0.
    """
    indices = np.arange(count)[None]
    one, two = (mix(seed, what, step, rows[:, None], 2 * indices + half) / 2.0**64 for half in (0, 1))
    return (np.sqrt(-2 * np.log1p(-one * (1 - 2.0**-52))) * np.cos(2 * np.pi * two)).astype(np.float32)
