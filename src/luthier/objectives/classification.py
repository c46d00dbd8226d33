"""Text classification: one class a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores

if TYPE_CHECKING:
    from torch import nn


class Classification(Component):
    """Learn the class of a text, or of two texts read together."""

    kind: Literal["classification"] = "classification"
    labels: tuple[str, ...] = Field(default=(), description="The classes, in order; taken from the training rows when empty.")
    pooling: Literal["auto", "cls", "mean", "last"] = Field(
        default="auto",
        description="What the head reads of a row: the first token through the base's own head (cls), the mean of all, or the last; auto is cls for encoders and last for decoders.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a class counts by the inverse of its share, as scikit-learn's."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread evenly over all classes.")
    max_length: int = Field(default=256, ge=8, description="Tokens a row may have; longer rows lose their end, counted.")

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> ClassificationObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns that are read.
            target: the column that is learned.
        """
        return ClassificationObjective(self, tokenizer, input, target)


class ClassificationObjective:
    """See `Classification`."""

    splits = True
    metrics = ("accuracy", "macro_f1", "loss", "calibration_error")

    def __init__(self, spec: Classification, tokenizer: Any, input: tuple[str, ...], target: str) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.input = input
        self.target = target
        self.weights: list[float] = [1.0] * len(spec.labels)

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows; a pair of columns is encoded as the base was trained to read pairs."""
        columns = [[str(record.values.get(name) or "") for record in records] for name in self.input]
        texts = columns[:2] if len(columns) <= 2 else [["\n\n".join(parts) for parts in zip(*columns, strict=True)]]
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.spec.max_length, return_token_type_ids=len(texts) == 2)
        whole = self.tokenizer(*texts, truncation=False, verbose=False) if records else {"input_ids": []}
        number = {label: position for position, label in enumerate(self.spec.labels)}
        return [
            Example(
                index=position,
                tokens=tokens,
                target=number.get(str(record.values.get(self.target)), -1),
                record=record,
                facts={
                    "cut": len(whole["input_ids"][position]) - len(tokens),
                    **({"segments": encoded["token_type_ids"][position]} if len(texts) == 2 else {}),
                },
            )
            for position, (record, tokens) in enumerate(zip(records, encoded["input_ids"], strict=True))
        ]

    def weigh(self, examples: Sequence[Example]) -> None:
        """Set the class weights from the training examples."""
        if self.spec.class_weights == "balanced":
            counts = Counter(example.target for example in examples)
            classes = len(self.spec.labels)
            self.weights = [len(examples) / (classes * max(counts[number], 1)) for number in range(classes)]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end; one class a row."""
        import torch

        flat = {"tokens": torch.tensor([token for example in examples for token in example.tokens])}
        if "segments" in examples[0].facts:
            flat["segments"] = torch.tensor([segment for example in examples for segment in example.facts["segments"]])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([len(example.tokens) for example in examples]),
            flat=flat,
            each={"target": torch.tensor([example.target for example in examples])},
        )

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
        )
