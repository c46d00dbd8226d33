"""Text classification: one class a row, of a text or of two texts read together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.data.infer import count_values, find_label, find_pair, find_text
from luthier.data.reading import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.data.usable import classes, reject_label, reject_reason
from luthier.families import text_defaults, token_proofs
from luthier.families.class_proofs import starts_where_it_must
from luthier.families.family import Choice, Family
from luthier.objectives.classification import Classification

if TYPE_CHECKING:
    from luthier.data.intake import Intake
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model
    from luthier.models.store import Base

EPOCHS = (
    (500, 12, "few rows: more passes"),
    (2_000, 6, "a few thousand rows"),
    (5_000, 4, "a few thousand rows"),
    (1 << 62, 3, "many rows"),
)
"""Below this many training rows, epochs, and why."""
ROWS_A_CLASS = (200, 8.0, "fewer than 200 rows a class: more passes")
"""Below this many training rows a class, at least this many epochs."""
BATCHES = (32, 16, 8, 4)
"""Rows a step, the most first: 32 are as good as 16 where the steps suffice, in four fifths of the time (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""
STEPS = 100, 12
"""That a run should have, and so many more for each class: 20 classes lost 2 points in 200 steps of 32 rows against 400 of 16 (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""
RARE = 0.1
"""Of an even share of the training rows: a class that has less is all but invisible to accuracy."""
EVEN = ("macro_f1", "balanced_accuracy")
"""Metrics that count every class the same."""
MANY_LONG = 0.1
"""Share of long rows above which they are read in windows."""
CHARACTERS_A_TOKEN = 4.5
"""Of English prose, roughly."""
WIDE = 512
"""An encoder whose states are at least this wide is not a small one."""


class TextClassification(Family):
    """See the module."""

    name = "classification"
    kind = RowKind("text", "class")
    Spec = Classification
    base = "minilm-l6"
    metrics = ("accuracy", "macro_f1", "balanced_accuracy", "auc", "mcc", "loss")
    probes = True
    pipeline_tag = "text-classification"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A label that repeats, and a text."""
        why = []
        pair = () if asked.input else find_pair(rows, asked.target)
        target = asked.target
        if target is None:
            target = find_label(rows, path, asked.input or pair)
            why.append(count_values(rows, target))
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why.append(reason)
        if asked.task is None and all(isinstance(row.get(target), list) for row in rows.values):
            return None
        return Columns(self.name, input, target, "; ".join(why) or "task and columns as given")

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without a text or without a label a row teaches nothing."""
        return reject_reason(record, columns) or reject_label(record, columns)

    def view(self, record: Record, data: Data) -> RowView:
        """The classes are split in proportion."""
        seen = super().view(record, data)
        return RowView(seen.text, seen.target, seen.target)

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The classes that have rows enough."""
        return classes(parts, columns, rejected, path)

    # starting point

    def role(self, base: Base | None) -> str:
        """An encoder, small or not; a decoder that classifies is a reader."""
        if base is not None and base.kind == "decoder":
            return "reader"
        return "encoder" if base is not None and base.width >= WIDE else "small encoder"

    def defaults(self, intake: Intake, base: Base | None, metric: str) -> list[Choice]:
        """By rows, rows a class, and the base's role."""
        rows = len(intake.records["train"])
        epochs, why = next((epochs, why) for limit, epochs, why in EPOCHS if rows < limit)
        if intake.labels and rows / len(intake.labels) < ROWS_A_CLASS[0] and epochs < ROWS_A_CLASS[1]:
            epochs, why = ROWS_A_CLASS[1:]
        role = self.role(base)
        adaptation, adapted = text_defaults.adaptation_for(role, self.depth_kept(base) if base is not None else 0)
        choices = [
            *(Choice(f"adaptation.{name}", value, adapted) for name, value in adaptation.items()),
            Choice("optimizer.lr", *self.learning_rate(base, adaptation["kind"])),
            Choice("training.epochs", epochs, why),
            self.batch_size(intake, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.1 if role.endswith("encoder") else 0.0, decay=0.01),
            *self.metric(intake, metric),
        ]
        long = self._long(intake) if len(intake.spec.input) == 1 else 0.0
        if long > MANY_LONG:
            reason = f"about {long:.0%} of the rows are too long to be read at once: they are read in pieces"
            choices.append(Choice("objective.long_rows", "windows", reason))
        return choices

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By what the base does and how it is adapted."""
        return text_defaults.learning_rate(self.role(base), base, adaptation)

    def batch_size(self, intake: Intake, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(intake.records["train"]) * epochs, STEPS[0] + STEPS[1] * len(intake.labels))

    def metric(self, intake: Intake, asked: str) -> list[Choice]:
        """Accuracy; where a class is so rare that accuracy does not see it, macro-F1 and class weights."""
        rare = self._rarest(intake)
        if not rare:
            return [Choice("training.metric", "accuracy" if asked == "auto" else asked, "no class is very rare: every row counts the same")]
        chosen = [
            Choice("training.metric", "macro_f1" if asked == "auto" else asked, f"{rare}: macro-F1 decides, and classes are weighted")
        ]
        if chosen[0].value in EVEN:
            chosen.append(Choice("objective.class_weights", "balanced", f"{rare}: a rare class's rows count more"))
        return chosen

    def depth_kept(self, base: Base) -> int:
        """A decoder that classifies does better with its lower half kept (docs/defaults.md)."""
        return base.blocks // 2 if base.blocks > 1 and self.role(base) == "reader" else 0

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """Those whose learning rates are known."""
        return text_defaults.adaptations(self.role(base))

    def may_set_schedule(self, base: Base | None) -> bool:
        """The learning rate of a decoder with a new head has to fall all the way: one that stays for half of sixty steps costs two to six points (docs/log/2026-11.md#rates-that-stay-in-short-runs)."""
        return self.role(base) != "reader"

    def _rarest(self, intake: Intake) -> str:
        """Says which class has less than a tenth of an even share of the training rows; empty where none has."""
        counts = Counter(dict.fromkeys(intake.labels, 0))
        counts.update(str(record.values.get(intake.spec.target or "")) for record in intake.records["train"])
        rows = len(intake.records["train"])
        label = min(intake.labels, key=lambda label: counts[label])
        if counts[label] >= RARE * rows / len(intake.labels):
            return ""
        return f"{label!r} has {counts[label]:,} of {rows:,} rows, less than a tenth of an even share"

    def _long(self, intake: Intake) -> float:
        """About which share of the rows has more tokens than are read at once."""
        limit = Classification().max_length * CHARACTERS_A_TOKEN
        texts = [str(record.values.get(intake.spec.input[0]) or "") for record in intake.records["train"]]
        return sum(len(text) > limit for text in texts) / len(texts)

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Classifier:
        """The base with a head for the classes."""
        return self.with_outputs(list(spec.labels), spec, model, base, seed)

    def with_outputs(
        self, names: list[str], spec: Any, model: Model, base: Base | None, seed: int, problem: str = "single_label_classification"
    ) -> Classifier:
        """The base with a head of so many outputs.

        Args:
            names: of the outputs, in order.
            spec: says what the head reads.
            model: dropout.
            base: from the store.
            seed: of the head.
            problem: what the outputs mean, as transformers calls it.
        """
        from luthier.models.pretrained import load_classifier

        assert base is not None
        pooling = spec.pooling
        if pooling == "auto":
            pooling = "cls" if base.kind == "encoder" else "last"
        return load_classifier(base, names, pooling, model.dropout, seed, problem)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; a new head knows nothing."""
        read = (token_proofs.something_is_learned, token_proofs.trained_is_served, token_proofs.control_tokens_stand_once)
        return read, (starts_where_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The most frequent class, and logistic regression on TF-IDF."""
        from luthier.evaluation import baselines

        given = train, validation, context.classes
        frequent = baselines.majority(*given)
        context.poll()
        return [frequent, baselines.words(*given, context.columns, context.most_rows)]

    def target_text(self, example: Example) -> str:
        """The class."""
        return example.facts["labels"][example.target]

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """Where it is right, wrong, and too sure."""
        from luthier.evaluation.metrics import describe_classes

        return describe_classes(scores, spec.labels)

    # use

    def predict(
        self, model: Any, objective: Any, processor: Any, records: Sequence[Record], data: Data, limit: int
    ) -> list[dict[str, Any]]:
        """The class, how sure, and the probability of each."""
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

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("text-classification", "PATH")("your text")'


FAMILY = TextClassification()
