"""Several labels a row, or none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.evaluation.label_thresholds import apply_thresholds
from luthier.objectives.text_rows import MAX_LENGTH, Head, LongRows, MaxLength, MostWindows, Overlap, Pooling, TextObjective

if TYPE_CHECKING:
    import torch
    from torch import nn

SEPARATORS = re.compile("[;|]")
"""What stands between the labels of a cell that is a text."""


class MultiLabel(Component):
    """Learn which labels belong to a text, or to two texts read together; each is decided by itself."""

    kind: Literal["multi_label"] = "multi_label"
    labels: tuple[str, ...] = Field(default=(), description="The labels, in order; taken from the training rows when empty.")
    pooling: Pooling = "auto"
    head: Head = "new"
    max_length: MaxLength = MAX_LENGTH
    long_rows: LongRows = "cut"
    overlap: Overlap = 32
    most_windows: MostWindows = 16
    thresholds: Literal["fixed", "fitted"] = Field(
        default="fixed",
        description="From which probability on a label is said: fixed: 0.5; fitted: what gives the validation rows the best F1 over all labels.",
    )
    fitted_thresholds: tuple[float, ...] = Field(
        default=(), description="The thresholds that were fitted, in the order of the labels; filled in after training."
    )

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> MultiLabelObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns that are read.
            target: the column that is learned.
        """
        return MultiLabelObjective(self, tokenizer, input, target)


def parse_list(cell: Any) -> list[Any] | None:
    """The items of a cell that is a list, or a text that is one in JSON; None where it is neither."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return list(cell) if isinstance(cell, list | tuple) else None


def labels_of(cell: Any) -> tuple[str, ...] | None:
    """The labels of a cell, each once, in their order; None where the cell says nothing, which is not the same as an empty list.

    >>> labels_of("sport; travel"), labels_of('["sport"]'), labels_of([]), labels_of(" ")
    (('sport', 'travel'), ('sport',), (), None)

    Raises:
        ValueError: it holds something that is no label.
    """
    items = parse_list(cell)
    if items is None:
        if cell is None or isinstance(cell, dict) or not str(cell).strip():
            if isinstance(cell, dict):
                raise ValueError("holds a dict, not labels")
            return None
        items = SEPARATORS.split(str(cell))
    wrong = next((item for item in items if isinstance(item, dict | list)), None)
    if wrong is not None:
        raise ValueError(f"holds a {type(wrong).__name__} among its labels")
    labels = (str(item).strip() for item in items if item is not None)
    return tuple(dict.fromkeys(label for label in labels if label))


def scores_of_labels(probabilities: np.ndarray, actual: np.ndarray, labels: tuple[str, ...]) -> Scores:
    """Probabilities as scores: the loss of a row is the cross-entropy of all its labels together.

    Args:
        probabilities: # (examples, labels)
        actual: 1 where the row has the label, 0 where not, # (examples, labels)
        labels: by name.
    """
    sure = np.clip(np.where(actual >= 0.5, probabilities, 1 - probabilities), 1e-12, 1.0)
    return Scores(-np.log(sure).sum(1), np.ones(len(actual)), labels=labels, more={"predicted": probabilities, "actual": actual})


class MultiLabelObjective(TextObjective):
    """See `MultiLabel`."""

    metrics: tuple[str, ...] = ("micro_f1", "label_macro_f1", "exact_match", "loss")
    learned = "set of labels"

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows; the target is a 0 or 1 for each label."""
        if not records:
            return []
        cells = [labels_of(record.values.get(self.target or "")) for record in records]
        targets = [None if cell is None else tuple(float(label in cell) for label in self.spec.labels) for cell in cells]
        return self.make_examples(records, targets, lambda target: target is not None, labels=self.spec.labels)

    def targets(self, examples: Sequence[Example]) -> torch.Tensor:
        """Which labels each has, # (examples, labels)"""
        import torch

        return torch.tensor([example.target or (0.0,) * len(self.spec.labels) for example in examples], dtype=torch.float32)

    def scores_of(self, outputs: np.ndarray, examples: Sequence[Example]) -> Scores:
        """What somebody says whose log-odds of the labels these are, as scores.

        Args:
            outputs: # (examples, labels)
            examples: of the same rows.
        """
        from scipy.special import expit

        return scores_of_labels(expit(outputs), self.targets(examples).double().numpy(), self.spec.labels)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Binary cross-entropy, summed over the labels and the rows; every row counts one."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        total = binary_cross_entropy_with_logits(model(batch).float(), batch.each["target"], reduction="sum")
        return Loss(total, float(len(batch)))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The probability of each label, and the plain cross-entropy."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        with torch.no_grad():
            logits = model(batch).float()
            loss = binary_cross_entropy_with_logits(logits, batch.each["target"], reduction="none").double().sum(1)
        scores = Scores(
            loss=loss.cpu().numpy(),
            count=np.ones(len(batch)),
            labels=self.spec.labels,
            more={"predicted": logits.double().sigmoid().cpu().numpy(), "actual": batch.each["target"].double().cpu().numpy()},
        )
        return apply_thresholds(scores, self.spec.fitted_thresholds) if self.spec.fitted_thresholds else scores
