"""Text classification: one class a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.objectives.text_rows import MAX_LENGTH, Head, LongRows, MaxLength, MostWindows, Overlap, Pooling, TextObjective

if TYPE_CHECKING:
    import torch
    from torch import nn


class Classification(Component):
    """Learn the class of a text, or of two texts read together."""

    kind: Literal["classification"] = "classification"
    labels: tuple[str, ...] = Field(default=(), description="The classes, in order; taken from the training rows when empty.")
    pooling: Pooling = "auto"
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a class counts by the inverse of its share, as scikit-learn's."
    )
    head: Head = "new"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread evenly over all classes.")
    max_length: MaxLength = MAX_LENGTH
    long_rows: LongRows = "cut"
    overlap: Overlap = 32
    most_windows: MostWindows = 16

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> ClassificationObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns that are read.
            target: the column that is learned.
        """
        return ClassificationObjective(self, tokenizer, input, target)


class ClassificationObjective(TextObjective):
    """See `Classification`."""

    metrics: tuple[str, ...] = ("accuracy", "macro_f1", "loss", "calibration_error")

    def __init__(self, spec: Classification, tokenizer: Any, input: tuple[str, ...], target: str) -> None:
        super().__init__(spec, tokenizer, input, target)
        self.weights: list[float] = [1.0] * len(spec.labels)

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows; a pair of columns is encoded as the base was trained to read pairs."""
        if not records:
            return []
        indices = {label: position for position, label in enumerate(self.spec.labels)}
        targets = [indices.get(str(record.values.get(self.target or "")), -1) for record in records]
        return self.make_examples(records, targets, lambda target: target >= 0, strata=True, labels=self.spec.labels)

    def fit(self, train: Sequence[Example]) -> None:
        """Set the class weights from the training examples."""
        if self.spec.class_weights == "balanced":
            counts = Counter(example.target for example in train)
            classes = len(self.spec.labels)
            self.weights = [len(train) / (classes * max(counts[index], 1)) for index in range(classes)]

    def targets(self, examples: Sequence[Example]) -> torch.Tensor:
        """The class of each, # (examples,)"""
        import torch

        return torch.tensor([example.target for example in examples])

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy, summed with the class weights; the count is the sum of those weights."""
        import torch
        from torch.nn.functional import cross_entropy

        target = batch.each["target"]
        weights = torch.tensor(self.weights, device=target.device)
        logits = model(batch).float()
        total = cross_entropy(logits, target, weight=weights, label_smoothing=self.spec.label_smoothing, reduction="sum")
        return Loss(total, float(weights[target].sum()))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """Class probabilities, and the plain cross-entropy against the target where there is one."""
        import torch

        with torch.no_grad():
            logged = model(batch).float().log_softmax(-1)
        target = batch.each["target"]
        loss = -logged.gather(1, target.clamp(min=0)[:, None])[:, 0].masked_fill(target < 0, float("nan"))
        return Scores(
            loss=loss.double().cpu().numpy(),
            count=torch.ones_like(target).double().cpu().numpy(),
            target=target.cpu().numpy(),
            probabilities=logged.double().exp().cpu().numpy(),
            labels=self.spec.labels,
        )
