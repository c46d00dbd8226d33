"""What families with one class a row have in common, whatever the rows are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.proof import Proof, ProofContext
from luthier.core.types import Example, Record, Scores
from luthier.data.row_reader import Columns, RowView
from luthier.data.rows import Rejected
from luthier.data.spec import Data
from luthier.data.usable_rows import keep_known_classes, reject_label, reject_reason
from luthier.evaluation.metric_choice import AUTO
from luthier.families.choice import Choice
from luthier.families.family import Family

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.outputs import Outputs

RARE = 0.1
"""Of an even share of the training rows: a class that has less is all but invisible to accuracy."""
EVEN = ("macro_f1", "balanced_accuracy")
"""Metrics that count every class the same."""


class ClassFamily(Family):
    """One class a row: split in proportion, judged by accuracy or, where a class is rare, by macro-F1."""

    metrics = ("accuracy", "macro_f1", "balanced_accuracy", "auc", "mcc", "loss")

    # rows

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without an input or without a label a row teaches nothing."""
        return reject_reason(record, columns) or reject_label(record, columns)

    def row_view(self, record: Record, data: Data) -> RowView:
        """The classes are split in proportion."""
        view = super().row_view(record, data)
        return RowView(view.text, view.target, view.target)

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The classes that have rows enough."""
        return keep_known_classes(parts, columns, rejected, path)

    # starting point

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """Accuracy; where a class is so rare that accuracy does not see it, macro-F1 and class weights."""
        rare = self._rarest(dataset)
        if not rare:
            return [Choice("training.metric", "accuracy" if asked == AUTO else asked, "no class is very rare: every row counts the same")]
        chosen = [Choice("training.metric", "macro_f1" if asked == AUTO else asked, f"{rare}: macro-F1 decides, and classes are weighted")]
        if chosen[0].value in EVEN:
            chosen.append(Choice("objective.class_weights", "balanced", f"{rare}: a rare class's rows count more"))
        return chosen

    def _rarest(self, dataset: Dataset) -> str:
        """Says which class has less than a tenth of an even share of the training rows; empty where none has."""
        counts = Counter(dict.fromkeys(dataset.labels, 0))
        counts.update(str(record.values.get(dataset.spec.target or "")) for record in dataset.records["train"])
        rows = len(dataset.records["train"])
        label = min(dataset.labels, key=lambda label: counts[label])
        if counts[label] >= RARE * rows / len(dataset.labels):
            return ""
        return f"{label!r} has {counts[label]:,} of {rows:,} rows, less than a tenth of an even share"

    # model and loss

    def outputs(self) -> Outputs:
        """One class of several."""
        from luthier.evaluation.outputs import OneClass

        return OneClass()

    # judging

    def target_text(self, example: Example) -> str:
        """The class."""
        return example.facts["labels"][example.target]

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """Where it is right, wrong, and too sure."""
        from luthier.evaluation.by_class import describe_classes

        return describe_classes(scores, spec.labels)

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The class, how sure, and the probability of each: for `luthier predict` and the server alike."""
        from luthier.evaluation.score import score

        if not records:
            return []
        scores = score(model, objective, objective.prepare(records))
        labels = objective.spec.labels
        assert scores.probabilities is not None
        return [
            {
                "label": labels[int(row.argmax())],
                "confidence": float(row.max()),
                "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
            }
            for row in scores.probabilities
        ]


def starts_where_it_must(context: ProofContext) -> Proof:
    """A new head knows nothing: its loss is the logarithm of the number of classes; one that begins as a linear probe is below it."""
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    expected = math.log(len(context.spec.labels))
    probed = getattr(context.spec, "head", "new") == "probe"
    how = ", for the head begins as logistic regression on the untouched base" if probed else ""
    return Proof(
        held=began < expected if probed else began <= expected + max(0.5, 0.25 * expected),
        claim=f"the loss begins at {began:.3f}{how}; a head that knows nothing has {expected:.3f}",
        evidence={"loss": began, "expected": expected},
    )
