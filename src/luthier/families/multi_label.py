"""Multi-label classification: any number of labels a text, or two texts read together."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.proof import Proof, ProofContext, ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.core.words import plural
from luthier.data.infer import TARGET_NAMES, find_pair, find_text
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spans import LABEL_COLUMNS, TOKEN_COLUMNS, has_tokens
from luthier.data.spec import Data
from luthier.data.usable_rows import FEWEST_OF_A_CLASS, reject_reason
from luthier.data.written_numbers import describe_written_numbers
from luthier.evaluation.label_thresholds import HALF, predicted_labels
from luthier.evaluation.metric_choice import AUTO
from luthier.families import token_proofs
from luthier.families.choice import Choice
from luthier.families.text_family import TextFamily
from luthier.objectives.multi_label import SEPARATORS, MultiLabel, labels_of, parse_list, scores_of_labels

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.evaluation.outputs import Outputs
    from luthier.families.head_start import HeadFit
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

NEARLY_ALL = 0.95
"""Share of the filled cells of a column that are lists, from which on it is a column of lists."""
SEPARATED = 0.1
"""Share of the filled cells with a separator, from which on a column that was named holds several labels a row."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation of logistic regression; the validation rows choose one for all labels."""
SHOWN = 5
COMMA = re.compile(",")
"""Which separates no labels, for names hold it: where it seems to be meant so, that is said."""
PROBED = 1.25
"""Times the loss of the labels' frequencies, at most, that a head may begin with as a linear probe: the proof sees few rows."""


class TextLabels(TextFamily):
    """See the module."""

    name = "multi_label"
    kind = RowKind("text", "classes")
    specificity = 2
    Spec = MultiLabel
    metrics = ("micro_f1", "label_macro_f1", "exact_match", "loss")
    gives = "labels"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A column whose cells hold several labels, and a text."""
        insists = asked.task == self.name
        target = asked.target or find_lists(rows, path, asked.input, insists)
        if target is None or not (insists or hold_lists(rows, target) or (asked.target and are_separated(rows, target))):
            return None
        why = [_say_labels(rows, target), *([commas] if (commas := say_commas(rows, target)) else [])]
        pair = () if asked.input else find_pair(rows, target)
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why.append(reason)
        return Columns(self.name, input, target, "; ".join(why))

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without a text, or without a word on its labels, a row teaches nothing; an empty list says that it has none."""
        try:
            found = labels_of(record.values.get(columns.target or ""))
        except ValueError as problem:
            return reject_reason(record, columns) or f"{columns.target} {problem}"
        empty = f"{columns.target!r} is empty: write [] where a row has no labels"
        return reject_reason(record, columns) or (empty if found is None else "")

    def row_view(self, record: Record, data: Data) -> RowView:
        """Nothing has to be split in proportion."""
        return RowView(record.text(data.input), "; ".join(_labels(record, data.target)))

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The labels that have rows enough; rows that have only others leave their parts."""
        counts = Counter(label for rows in parts.values() for record in rows for label in _labels(record, columns.target))
        known = {label for record in parts["train"] for label in _labels(record, columns.target)}
        kept = {label for label in known if counts[label] >= FEWEST_OF_A_CLASS}
        if len(kept) < 2:
            raise DataError(
                f"{path}: fewer than 2 labels have {FEWEST_OF_A_CLASS} rows or more ({columns.target!r} names {len(counts)})",
                "labels are separated by ; or |, or are JSON lists; for one class a row: --task classification",
            )
        for name, rows in parts.items():
            left = []
            for record in rows:
                found = _labels(record, columns.target)
                if found and not kept & set(found):
                    reason = f"of its labels ({', '.join(found[:SHOWN])}) none has {FEWEST_OF_A_CLASS} rows or is in the training rows"
                    rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
                else:
                    left.append(record)
            parts[name] = left
        return tuple(sorted(kept))

    # starting point

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """F1 over all labels."""
        why = "every label of every row counts the same; that most rows have not a label does not help, as it would with accuracy"
        return [Choice("training.metric", "micro_f1" if asked == AUTO else asked, why)]

    def reason_for_probe(self, dataset: Dataset) -> str:
        """Always: most rows have not a label, and a random head spends its steps on learning how rare each is."""
        return "a head that begins as logistic regression knows how rare each label is (docs/defaults.md)"

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Classifier:
        """The base with a head of one output a label."""
        return self.with_outputs(list(spec.labels), spec, model, base, seed, "multi_label_classification")

    def head_fit(self) -> HeadFit:
        """Logistic regression for each label."""
        from luthier.evaluation.linear_heads import fit_labels
        from luthier.families.head_start import fit_targets

        return fit_targets(fit_labels)

    def outputs(self) -> Outputs:
        """Each label by itself."""
        from luthier.evaluation.outputs import SeveralLabels

        return SeveralLabels()

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; a new head knows nothing."""
        return token_proofs.READ, (starts_undecided,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """How frequent each label is, and logistic regression on TF-IDF for each label."""
        frequent = label_frequencies(train, validation)
        context.poll()
        return [frequent, words_for_each_label(train, validation, context)]

    def target_text(self, example: Example) -> str:
        """The labels."""
        return _join_labels(example.facts["labels"], example.target)

    def predicted_text(self, scores: Scores, position: int) -> str:
        """The labels that were said."""
        return _join_labels(scores.labels, predicted_labels(scores)[position])

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """Each label, the weakest first."""
        said, actual = predicted_labels(scores), scores.more["actual"] >= HALF
        right, named, there = (said & actual).sum(0), said.sum(0), actual.sum(0)
        each = [
            (label, int(there[k]), right[k] / max(named[k], 1), right[k] / max(there[k], 1), 2 * right[k] / max(named[k] + there[k], 1))
            for k, label in enumerate(spec.labels)
        ]
        fitted = dict(zip(spec.labels, scores.more["fitted_thresholds"][0], strict=True)) if "fitted_thresholds" in scores.more else {}
        rows = [
            (label, n, *(f"{value:.3f}" for value in values), *([f"{fitted[label]:.2f}"] if fitted else []))
            for label, n, *values in sorted(each, key=lambda one: one[-1])
        ]
        head = ("label", "rows", "precision", "recall", "F1", *(["said from"] if fitted else []))
        return {"tables": [{"title": "Each label, the weakest first", "head": head, "rows": rows}]}

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The labels that are likelier than not, or than their thresholds, and the probability of each."""
        from luthier.evaluation.score import score

        if not records:
            return []
        labels = objective.spec.labels
        scores = score(model, objective, objective.prepare(records))
        return [
            {
                "labels": [label for label, sure in zip(labels, said, strict=True) if sure],
                "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
            }
            for row, said in zip(scores.more["predicted"], predicted_labels(scores), strict=True)
        ]

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("text-classification", "PATH", top_k=None)("your text")'


def _labels(record: Record, target: str | None) -> tuple[str, ...]:
    return labels_of(record.values.get(target or "")) or ()


def _join_labels(labels: Sequence[str], sure: Any) -> str:
    return "; ".join(label for label, value in zip(labels, sure, strict=True) if value >= HALF) or "no label"


def _filled_cells(rows: Rows, column: str) -> list[Any]:
    """The cells of a column that say something; an empty list does."""
    return [cell for row in rows.values if (cell := row.get(column)) is not None and str(cell).strip()]


def hold_lists(rows: Rows, column: str) -> bool:
    """Whether nearly all cells of a column are lists of texts, and some have items."""
    cells = _filled_cells(rows, column)
    lists = [found for cell in cells if (found := parse_list(cell)) is not None and all(isinstance(item, str) for item in found)]
    return bool(cells) and len(lists) >= NEARLY_ALL * len(cells) and any(lists)


def are_separated(rows: Rows, column: str, separators: re.Pattern[str] = SEPARATORS) -> bool:
    """Whether cells of a column are several labels with a separator: they are put together from fewer parts than there are different cells.

    Args:
        rows: of the table.
        column: that is looked at.
        separators: one of them stands between two labels.
    """
    cells = [cell for cell in _filled_cells(rows, column) if isinstance(cell, str)]
    several = [cell for cell in cells if separators.search(cell)]
    parts = {part.strip() for cell in cells for part in separators.split(cell)}
    return len(several) >= max(SEPARATED * len(cells), 1) and len(parts) < len(set(cells))


def say_commas(rows: Rows, column: str) -> str:
    """How labels that are joined by commas are to be written; empty where a column holds none."""
    if not are_separated(rows, column, COMMA) or describe_written_numbers(rows, column):
        return ""
    cell = next(str(cell) for cell in _filled_cells(rows, column) if COMMA.search(str(cell)))
    written = "; ".join(part.strip() for part in cell.split(","))
    return (
        f"the cells of {column!r} hold commas, and what stands between them recurs, but commas separate no labels: "
        f"where a row has several, write {written!r} for {cell!r}, for --task multi_label"
    )


def find_lists(rows: Rows, path: str, read: tuple[str, ...], insists: bool) -> str | None:
    """The one column that holds several labels a row; None where there is none, or several.

    Raises:
        DataError: a person asked for it, and it is not clear which.
    """
    tokens = (*TOKEN_COLUMNS, *LABEL_COLUMNS) if has_tokens(rows) else ()  # they, and their labels, are no labels of the row
    found = [name for name in rows.columns if name not in (*read, *tokens) and hold_lists(rows, name)]
    if insists and not found:
        found = [name for name in rows.columns if name not in read and are_separated(rows, name)]
    if insists and not found:  # some cells are lists, and the others single labels
        found = [name for name in rows.columns if name not in read and any(parse_list(cell) for cell in _filled_cells(rows, name))]
    if len(found) > 1:
        found = [name for name in found if name.lower() in TARGET_NAMES] or found
    if insists and len(found) != 1:
        said = f"several columns hold lists ({', '.join(found[:8])})" if found else f"none of the columns {', '.join(rows.columns)} holds several labels a row"  # fmt: skip
        raise DataError(f"{path}: {said}", "name the one to be learned: --target COLUMN")
    return found[0] if len(found) == 1 else None


def _say_labels(rows: Rows, target: str) -> str:
    """How the cells are read, which labels there are, and which are left out, for a person."""
    counts: Counter[str] = Counter()
    for cell in _filled_cells(rows, target):
        try:
            counts.update(labels_of(cell) or ())
        except ValueError:
            continue  # the row is set aside with its reason
    marks = sorted({mark for cell in _filled_cells(rows, target) if parse_list(cell) is None for mark in SEPARATORS.findall(str(cell))})
    lists = sum(parse_list(cell) is not None for cell in _filled_cells(rows, target))
    how = f"labels separated by {' and '.join(repr(mark) for mark in marks)}" if marks else "one label each"
    if lists:
        how = "lists" if lists == len(_filled_cells(rows, target)) else f"{lists:,} lists, and {how}"
    rare = sorted(label for label, count in counts.items() if count < FEWEST_OF_A_CLASS)
    more = ", …" if len(rare) > SHOWN else ""
    left = f"; left out, because fewer than {FEWEST_OF_A_CLASS} rows have them: {', '.join(rare[:SHOWN])}{more}" if rare else ""
    return f"the cells of {target!r} are {how}: {plural(len(counts), 'label')}{left}"


def starts_undecided(context: ProofContext) -> Proof:
    """A new head knows nothing: each label costs the logarithm of 2; one that begins as a linear probe is no worse than how frequent each label is."""
    import numpy as np

    from luthier.evaluation.score import score

    began = float(score(context.model, context.objective, context.rows).loss.mean())
    labels = len(context.spec.labels)
    if context.spec.head == "probe":
        actual = np.array([example.target for example in context.rows])
        known = scores_of_labels(np.tile(shares_of(context.train), (len(actual), 1)), actual, context.spec.labels)
        expected = float(known.loss.mean())
        return Proof(
            held=began <= PROBED * expected,
            claim=f"the loss of a row begins at {began:.3f}, for the head begins as logistic regression on the untouched base; who says the labels' frequencies has {expected:.3f}",
            evidence={"loss": began, "expected": expected},
        )
    expected = labels * math.log(2)
    return Proof(
        held=began <= expected + max(0.5, 0.25 * expected),
        claim=f"the loss of a row begins at {began:.3f}; a head that knows nothing has {expected:.3f} with {plural(labels, 'label')}",
        evidence={"loss": began, "expected": expected},
    )


def shares_of(train: Sequence[Example]) -> Any:
    """About which share of the rows has each label, above 0 and below 1, # (labels,)"""
    import numpy as np

    return (np.array([example.target for example in train]).sum(0) + 1) / (len(train) + 2)


def label_frequencies(train: Sequence[Example], validation: Sequence[Example]) -> Baseline:
    """Every row gets the training rows' shares of the labels: a label is said where most rows have it."""
    import numpy as np

    from luthier.evaluation.baselines import Baseline

    labels = train[0].facts["labels"]
    shares = shares_of(train)

    def score(examples: Sequence[Example]) -> Scores:
        return scores_of_labels(np.tile(shares, (len(examples), 1)), np.array([example.target for example in examples]), labels)

    return Baseline("label frequencies", score, score(validation))


def words_for_each_label(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """For each label logistic regression on TF-IDF of words and word pairs; the validation rows choose one regularisation for all.

    Args:
        train: rows to fit on; of more than `context.most_rows` a part.
        validation: rows that choose.
        context: the columns that are read.
    """
    import numpy as np
    from scipy.special import expit

    from luthier.evaluation.baselines import Baseline, share_of_rows, tf_idf
    from luthier.evaluation.linear_heads import Linear, logistic_of_labels

    every, train = len(train), train[:: -(-len(train) // context.most_rows)]
    labels, features = train[0].facts["labels"], tf_idf(train, context.columns)
    seen, target = features(train), np.array([example.target for example in train])

    def score(examples: Sequence[Example], fitted: Linear) -> Scores:
        weight, bias = fitted
        probabilities = expit(features(examples) @ weight.T + bias)
        return scores_of_labels(probabilities, np.array([example.target for example in examples]), labels)

    models = [logistic_of_labels(seen, target, strength, context.poll) for strength in STRENGTHS]
    scored = [(fitted, score(validation, fitted)) for fitted in models]
    best, held = min(scored, key=lambda one: float(one[1].loss.sum()))
    name = f"TF-IDF + logistic regression for each label{share_of_rows(len(train), every)}"
    return Baseline(name, lambda examples: score(examples, best), held)


FAMILY = TextLabels()
