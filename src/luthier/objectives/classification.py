"""Text classification: one class a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.objectives.objective import BaseObjective

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
    max_length: int = Field(default=256, ge=8, description="Tokens that are read at once; `long_rows` says what becomes of longer rows.")
    long_rows: Literal["cut", "windows"] = Field(
        default="cut",
        description="cut: a longer row loses its end, counted; windows: it is read in pieces, and their mean decides once for the row.",
    )
    overlap: int = Field(default=32, ge=0, description="Tokens that a window shares with the one before it.")
    most_windows: int = Field(default=16, ge=1, description="Windows a row may have; what lies behind them is lost, counted.")

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> ClassificationObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns that are read.
            target: the column that is learned.
        """
        return ClassificationObjective(self, tokenizer, input, target)


class ClassificationObjective(BaseObjective):
    """See `Classification`."""

    varies = "texts"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1", "loss", "calibration_error")

    def __init__(self, spec: Classification, tokenizer: Any, input: tuple[str, ...], target: str) -> None:
        super().__init__(spec, tokenizer, input, target)
        self.weights: list[float] = [1.0] * len(spec.labels)

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows; a pair of columns is encoded as the base was trained to read pairs."""
        if not records:
            return []
        columns = [[str(record.values.get(name) or "") for record in records] for name in self.input]
        texts = columns[:2] if len(columns) <= 2 else [["\n\n".join(parts) for parts in zip(*columns, strict=True)]]
        read = self._windows(texts[0]) if self.windowed else self._once(texts)
        number = {label: position for position, label in enumerate(self.spec.labels)}
        targets = (number.get(str(record.values.get(self.target or "")), -1) for record in records)
        return [
            Example(
                index=position,
                inputs=inputs,
                target=target,
                record=record,
                size=len(inputs["tokens"]),
                units=float(target >= 0),
                stratum=target,
                facts={"cut": cut, "labels": self.spec.labels},
            )
            for position, (record, target, (inputs, cut)) in enumerate(zip(records, targets, read, strict=True))
        ]

    @property
    def windowed(self) -> bool:
        """Whether long rows are read in pieces; two texts that are read together are not."""
        return self.spec.long_rows == "windows" and len(self.input) != 2

    def _once(self, texts: list[list[str]]) -> Iterator[tuple[dict[str, list[int]], int]]:
        """The tokens of each row up to what is read, and what was cut."""
        whole = self.tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.spec.max_length, return_token_type_ids=len(texts) == 2)
        for position, tokens in enumerate(encoded["input_ids"]):
            segments = {"segments": encoded["token_type_ids"][position]} if len(texts) == 2 else {}
            yield {"tokens": tokens, **segments}, len(whole[position]) - len(tokens)

    def _windows(self, texts: list[str]) -> Iterator[tuple[dict[str, list[int]], int]]:
        """The tokens of each row's windows end to end, where each window begins anew, and what lies behind the last."""
        longest, overlap = self.spec.max_length, min(self.spec.overlap, self.spec.max_length // 2)
        encoded = self.tokenizer(texts, truncation=True, max_length=longest, stride=overlap, return_overflowing_tokens=True)
        again = overlap + self.tokenizer.num_special_tokens_to_add()  # of each window, what is not new in it
        rows: list[list[list[int]]] = [[] for _ in texts]
        for row, piece in zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], strict=True):
            rows[row].append(piece)
        for pieces in rows:
            kept, lost = pieces[: self.spec.most_windows], pieces[self.spec.most_windows :]
            tokens = [token for piece in kept for token in piece]
            places = [place for piece in kept for place in range(len(piece))]
            yield {"tokens": tokens, "place": places}, sum(len(piece) - again for piece in lost)

    def fit(self, train: Sequence[Example]) -> None:
        """Set the class weights from the training examples."""
        if self.spec.class_weights == "balanced":
            counts = Counter(example.target for example in train)
            classes = len(self.spec.labels)
            self.weights = [len(train) / (classes * max(counts[number], 1)) for number in range(classes)]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end (and, for rows in windows, each token's place in its window); one class a row."""
        import torch

        if self.changes(step):
            examples = self._changed(examples, seed, step)
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={name: torch.tensor([value for example in examples for value in example.inputs[name]]) for name in examples[0].inputs},
            each={"target": torch.tensor([example.target for example in examples])},
        )

    def _changed(self, examples: Sequence[Example], seed: int, step: int) -> list[Example]:
        """The rows as they are learned from in this step: some of their texts changed."""
        augment, found = self.augment, []
        assert augment is not None
        for row in examples:
            if augment.changes(seed, step, row.index):
                values = {name: augment.view(str(row.record.values.get(name) or ""), seed, step, row.index) for name in self.input}
                (changed,) = self.prepare([replace(row.record, values={**row.record.values, **values})])
                row = replace(changed, index=row.index)
            found.append(row)
        return found

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
