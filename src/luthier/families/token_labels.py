"""Token labels: parts of a text and what each of them is: names, clauses, parts of speech; long texts are read in overlapping windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.core.words import plural
from luthier.data.infer import find_text
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spans import LABEL_COLUMNS, SPANS, TEXT, Span, has_tokens, spans_of, wrong_spans
from luthier.data.spec import Data
from luthier.data.usable_rows import FEWEST_OF_A_CLASS, reject_reason
from luthier.evaluation.metric_choice import AUTO
from luthier.families import token_label_proofs, token_proofs
from luthier.families.choice import Choice
from luthier.families.text_family import TextFamily
from luthier.families.token_label_baselines import dictionary_of_spans, no_span
from luthier.objectives.token_labels import TokenLabels

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.token_labels import TokenClassifier

SMALL_ENCODER = (2e-4, "small encoders: 3e-5 to 3e-4 (BERT-small grid); on 839 labelled questions 1e-4 was still too slow in 6 epochs (docs/token-labels.md)")  # fmt: skip
"""Learning rate of a small encoder, and where it comes from."""
NEARLY_ALL = 0.9
"""Share of the filled cells of a column that are lists of spans, from which on it is a column of spans; the others are set aside, each with its reason."""
SHOWN = 5
ERRORS = 40
"""Spans that the report lists of those that are wrong."""
AROUND = 40
"""Characters shown before and behind such a span."""


class TokenLabelsFamily(TextFamily):
    """See the module."""

    name = "token_labels"
    kind = RowKind("text", "spans")
    specificity = 4
    Spec = TokenLabels
    base_kinds = ("encoder",)
    metrics = ("span_f1", "token_accuracy", "loss")
    structured = ("spans",)
    pipeline_tag = "token-classification"
    gives = "tags"

    # rows

    def file_format(self, path: Path) -> str | None:
        """A text file is one of CoNLL columns, where a person insists."""
        return "conll" if path.suffix.lower() == ".txt" else None

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A column of spans, and the text that they are parts of."""
        insists = asked.task == self.name
        target = _spans_column(rows, asked.target) if asked.target else find_spans(rows)
        if target is None or not (insists or are_spans(rows, target)):
            if (numbered := _find_numeric_labels(rows)) and (insists or has_tokens(rows)):
                raise DataError(f"{path}: the labels in {numbered!r} are numbers", "write their names, such as B-person or O: where the set comes from it says which number is which")  # fmt: skip
            if (empty := _column_without_spans(rows, asked.target)) and (insists or has_tokens(rows)):
                raise DataError(f"{path}: no text has a span: {empty!r} is [] in all {len(rows.values):,} rows", "label some texts, or name another column with --target")  # fmt: skip
            if insists:
                raise DataError(
                    f"{path}: none of the columns {', '.join(rows.columns)} holds spans",
                    'give rows such as {"text": "Maria left", "spans": [{"start": 0, "end": 5, "label": "person"}]}, lists as tokens and ner_tags, or CoNLL columns in a .conll file',
                )
            return None
        why = _say_spans(rows, target)
        input = asked.input
        if not input:
            text = TEXT in rows.columns and (TEXT,)
            input, reason = (text, f"{TEXT!r} holds the text") if text else find_text(rows, path, target, ())
            why = f"{why}; {reason}"
        if len(input) > 1:
            raise DataError(
                f"{path}: spans are parts of one text, and {' and '.join(input)} are {len(input)}", f"name one: --input {input[0]}"
            )
        return Columns(self.name, input, target, why)

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without a text, or without a word on its spans, a row teaches nothing; an empty list says that it has none."""
        if reason := reject_reason(record, columns):
            return reason
        try:
            spans = spans_of(record.values.get(columns.target or ""))
        except ValueError as problem:
            return f"{columns.target} {problem}"
        if spans is None:
            return f"{columns.target!r} is empty: write [] where a text has no spans"
        return wrong_spans(spans, str(record.values.get(columns.input[0])))

    def row_view(self, record: Record, data: Data) -> RowView:
        """The text, and its spans for a person."""
        text = str(record.values.get(data.input[0]) or "")
        return RowView(text, "; ".join(span.describe(text) for span in _spans(record, data.target)))

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The kinds that have spans enough in the training rows; spans of other kinds are not learned."""
        counts = Counter(span.label for record in parts["train"] for span in _spans(record, columns.target))
        frequent = tuple(sorted(kind for kind, count in counts.items() if count >= FEWEST_OF_A_CLASS))
        if not frequent:
            raise DataError(
                f"{path}: no kind of span is there {FEWEST_OF_A_CLASS} times or more ({columns.target!r} has {plural(sum(counts.values()), 'span')} of {plural(len(counts), 'kind')})",
                "label more texts, or name the right column with --target",
            )
        return frequent

    # starting point

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """As of other text families, but for a small encoder that is tuned whole."""
        if self.role(base) == "small encoder" and adaptation in ("full", "gradual"):
            return SMALL_ENCODER
        return super().learning_rate(base, adaptation)

    def _long_share(self, dataset: Dataset, base: Base | None) -> float:
        """None: every text is read whole, in windows."""
        return 0.0

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """F1 over all spans."""
        why = "a span counts where start, end and label are right; that most words are in no span does not help, as it would with accuracy"
        return [Choice("training.metric", "span_f1" if asked == AUTO else asked, why)]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> TokenClassifier:
        """The base with a head of one output for each label of a word."""
        from luthier.data.spans import tags_of
        from luthier.models.token_labels import load_token_classifier

        assert base is not None
        return load_token_classifier(base, tags_of(spec.labels), model.dropout, seed)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; labels stand on their words, once; a new head knows nothing."""
        return (*token_proofs.READ, *token_label_proofs.READ), (token_label_proofs.starts_where_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """No span at all, and the spans of the training rows found again."""
        none = no_span(train, validation)
        context.poll()
        return [none, dictionary_of_spans(train, validation)]

    def target_text(self, example: Example) -> str:
        """The spans."""
        return "; ".join(span.describe(example.facts["text"]) for span in example.facts["spans"]) or "no span"

    def predicted_text(self, scores: Scores, position: int) -> str:
        """The spans that were said, by their places."""
        return "; ".join(f"{label}: {start} to {end}" for start, end, label, _ in scores.more["said"][position]) or "no span"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """Each kind of span, the weakest first."""
        right, predicted, there = (scores.more[f"{name}_spans"].sum(0) for name in ("right", "named", "there"))
        each = [
            (
                kind,
                int(there[k]),
                right[k] / max(predicted[k], 1),
                right[k] / max(there[k], 1),
                2 * right[k] / max(predicted[k] + there[k], 1),
            )
            for k, kind in enumerate(spec.labels)
        ]
        rows = [(kind, n, *(f"{value:.3f}" for value in values)) for kind, n, *values in sorted(each, key=lambda one: one[-1])]
        return {
            "tables": [
                {"title": "Each kind of span, the weakest first", "head": ("kind", "spans", "precision", "recall", "F1"), "rows": rows}
            ]
        }

    def describe_errors(self, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """Spans that are missed, invented, of the wrong kind, or with another beginning or end."""
        counts: Counter[str] = Counter()
        rows = []
        for example, predicted in zip(examples, scores.more["said"], strict=True):
            for error, span, instead in compare_spans(example.facts["spans"], [Span(*one[:3]) for one in predicted]):
                counts[error] += 1
                if len(rows) < ERRORS:
                    rows.append((error, _within(span, example.facts["text"]), span.label, instead, f"line {example.record.row}"))
        tables = [
            {"title": "What is wrong, and how often", "head": ("error", "spans"), "rows": counts.most_common()},
            {"title": "Spans that are wrong", "head": ("error", "span", "kind", "instead", "row"), "rows": rows},
        ]
        return {"tables": tables} if rows else {}

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The text, and its spans with the probability of the least certain of their words."""
        from luthier.evaluation.score import score

        if not records:
            return []
        examples = objective.prepare(
            [Record(record.row, {name: record.values.get(name) for name in objective.input}) for record in records]
        )
        predictions = score(model, objective, examples).more["said"]
        return [
            {
                "text": example.facts["text"],
                "spans": [
                    {"start": start, "end": end, "label": label, "text": example.facts["text"][start:end], "probability": probability}
                    for start, end, label, probability in spans
                ],
            }
            for example, spans in zip(examples, predictions, strict=True)
        ]

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("token-classification", "PATH", aggregation_strategy="first")("your text")'


def compare_spans(true: Sequence[Span], said: Sequence[Span]) -> list[tuple[str, Span, str]]:
    """What is wrong with what was said: the error, the span, and what stands there instead.

    >>> compare_spans([Span(0, 5, "person"), Span(9, 13, "place")], [Span(0, 5, "place")])
    [('wrong kind', Span(start=0, end=5, label='person'), 'place'), ('missed', Span(start=9, end=13, label='place'), '')]
    """
    errors = []
    right = set(true) & set(said)
    left = [span for span in said if span not in right]
    for span in (one for one in true if one not in right):
        other = next((one for one in left if one.start < span.end and one.end > span.start), None)
        if other is None:
            errors.append(("missed", span, ""))
            continue
        left.remove(other)
        same = (other.start, other.end) == (span.start, span.end)
        errors.append(
            (
                "wrong kind" if same else "other beginning or end",
                span,
                other.label if same else f"{other.label}, {other.start} to {other.end}",
            )
        )
    return errors + [("invented", span, "") for span in left]


def _within(span: Span, text: str) -> str:
    """A span in brackets among the words around it."""
    before, behind = text[max(0, span.start - AROUND) : span.start], text[span.end : span.end + AROUND]
    return (
        f"{'…' if span.start > AROUND else ''}{before}[{text[span.start : span.end]}]{behind}{'…' if span.end + AROUND < len(text) else ''}"
    )


def _spans(record: Record, target: str | None) -> list[Span]:
    return spans_of(record.values.get(target or "")) or []


def _spans_column(rows: Rows, column: str) -> str:
    """The column of spans that was made of a column of labels, where that one was named."""
    made = (SPANS, f"{column}_{SPANS}")
    first = next((name for name in LABEL_COLUMNS if name in rows.columns), None)
    return next((name for name in made if name in rows.columns and column in LABEL_COLUMNS and (name != SPANS or column == first)), column)


def _find_numeric_labels(rows: Rows) -> str | None:
    """A column of labels of tokens that are numbers."""
    cells = {name: [row.get(name) for row in rows.values] for name in LABEL_COLUMNS if name in rows.columns}
    return next(
        (name for name, lists in cells.items() if any(isinstance(cell, list) and cell and isinstance(cell[0], int) for cell in lists)), None
    )


def _column_without_spans(rows: Rows, asked: str | None) -> str | None:
    """A column that could hold spans, and whose cells are all empty lists."""
    names = [asked] if asked else [name for name in rows.columns if name == SPANS]
    return next((name for name in names if rows.values and all(row.get(name) in ([], (), "[]") for row in rows.values)), None)


def are_spans(rows: Rows, column: str) -> bool:
    """Whether nearly all filled cells of a column are lists of spans, and some are not empty."""
    filled = [cell for row in rows.values if (cell := row.get(column)) is not None and str(cell).strip()]
    lists = []
    for cell in filled:
        try:
            lists.append(spans_of(cell) or [])
        except ValueError:
            continue
    return bool(filled) and len(lists) >= NEARLY_ALL * len(filled) and any(lists)


def find_spans(rows: Rows) -> str | None:
    """The column of spans; of several the one that is called so."""
    candidates = [name for name in rows.columns if are_spans(rows, name)]
    return next((name for name in candidates if name == SPANS), candidates[0] if candidates else None)


def _say_spans(rows: Rows, target: str) -> str:
    """How many spans there are of which kinds, and which are left out, for a person."""
    counts: Counter[str] = Counter()
    for row in rows.values:
        try:
            counts.update(span.label for span in spans_of(row.get(target)) or ())
        except ValueError:
            continue  # the row is set aside with its reason
    rare = sorted(kind for kind, count in counts.items() if count < FEWEST_OF_A_CLASS)
    more = ", …" if len(rare) > SHOWN else ""
    left = f"; left out, because there are fewer than {FEWEST_OF_A_CLASS}: {', '.join(rare[:SHOWN])}{more}" if rare else ""
    return f"{target!r} holds {plural(sum(counts.values()), 'span')} of {plural(len(counts), 'kind')}{left}"


FAMILY = TokenLabelsFamily()
