"""Regression: a number for a text, or for two texts read together: a rating, a price, a similarity."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.proof import Proof, ProofContext, ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.data.check.numbers import HOPELESS, find_far
from luthier.data.infer import TARGET_NAMES, find_label, find_pair, find_text
from luthier.data.reading import Columns, RowKind
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.data.usable_rows import reject_reason
from luthier.evaluation.metric_choice import AUTO
from luthier.families import token_proofs
from luthier.families.family import Choice
from luthier.families.text_family import TextFamily
from luthier.objectives.regression import Regression, number_of, scores_of_numbers

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.evaluation.outputs import Outputs
    from luthier.families.head_start import Fit
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

NEARLY_ALL = 0.95
"""Share of the filled cells of a column that are numbers, from which on it is a column of numbers."""
MANY = 50
"""Different whole numbers above which they are amounts, and no longer classes that have a number for a name."""
ROWS_A_CODE = 10
"""Rows that each of many whole numbers without gaps has in the mean where they are codes of classes, such as 0 to 76."""
NUMBER_NAMES = (*TARGET_NAMES, "score", "similarity", "price", "value", "amount", "stars", "points", "grade", "number")
NO_TARGET = ("id", "index", "idx", "row", "year", "date", "time", "timestamp")
"""Columns of these names, or that end in _id, are not learned unless they are named."""
STRENGTHS = (0.1, 1.0, 10.0)
"""Of ridge regression; the validation rows choose."""
PARTS = 5
"""Of the test rows by their number, for the report."""


class TextRegression(TextFamily):
    """See the module."""

    name = "regression"
    kind = RowKind("text", "number")
    specificity = 1
    Spec = Regression
    metrics = ("rmse", "mae", "r2", "spearman", "loss")
    gives = "number"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A column of amounts, and a text."""
        insists = asked.task == self.name
        pair = () if asked.input else find_pair(rows, asked.target)
        target = asked.target or find_number(rows, path, asked.input or pair, insists)
        if target is None or not (insists or are_amounts(rows, target)):
            return None
        numbers = numbers_in(rows, target)
        if not numbers:
            raise DataError(
                f"{path}: the column {target!r} holds no numbers: the first cell is {str(rows.values[0].get(target))[:40]!r}",
                "name another column with --target, or learn classes: --task classification",
            )
        why = [f"{target!r} holds numbers from {min(numbers):g} to {max(numbers):g}, {len(set(numbers)):,} different ones"]
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why.append(reason)
        if not insists and all(is_numeric(rows, name) for name in input):
            return None
        return Columns(self.name, input, target, "; ".join(why))

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without a text or without a finite number a row teaches nothing."""
        cell = record.values.get(columns.target or "")
        if reason := reject_reason(record, columns):
            return reason
        if cell is None or not str(cell).strip():
            return f"there is no number ({columns.target!r} is empty)"
        return f"{columns.target} is {str(cell)[:40]!r}, which is not a finite number" if math.isnan(number_of(cell)) else ""

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """There are no classes; a number beyond all others is set aside, and numbers that are all the same teach nothing."""

        def number(record: Record) -> float:
            return number_of(record.values.get(columns.target or ""))

        known = [number(record) for record in parts["train"]]
        for name, rows in parts.items():
            far = find_far([number(record) for record in rows], known, HOPELESS)
            for record in (rows[place] for place in far):
                reason = f"{columns.target} is {number(record):g}, more than a million interquartile ranges from the median ({statistics.median(known):g}): a slip?"
                rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
            parts[name] = [record for place, record in enumerate(rows) if place not in far]
        numbers = {number(record) for record in parts["train"]}
        if len(numbers) == 1:
            raise DataError(f"{path}: every row has the number {numbers.pop():g}", "is this the right --target?")
        return ()

    # starting point

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """The root of what is learned."""
        why = "the root of what is learned, in the target's own unit; large errors count more than in mae"
        return [Choice("training.metric", "rmse" if asked == AUTO else asked, why)]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Classifier:
        """The base with a head of one output."""
        return self.with_outputs(["value"], spec, model, base, seed, "regression")

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The mean and the spread of the training targets."""
        if spec.mean is not None and spec.spread is not None:
            return spec
        numbers = [number_of(record.values.get(dataset.spec.target or "")) for record in dataset.records["train"]]
        mean, spread = statistics.fmean(numbers), statistics.pstdev(numbers)
        if not spread:
            raise DataError(f"{dataset.spec.path}: every training row has the number {mean:g}", "give rows with other numbers too")
        return spec.model_copy(
            update={"mean": mean if spec.mean is None else spec.mean, "spread": spread if spec.spread is None else spec.spread}
        )

    def head_fit(self) -> Fit:
        """Ridge regression."""
        from luthier.evaluation.linear_heads import fit_number
        from luthier.families.head_start import fit_targets

        return fit_targets(fit_number)

    def outputs(self) -> Outputs:
        """A number."""
        from luthier.evaluation.outputs import Number

        return Number()

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; a new head knows nothing."""
        return token_proofs.READ, (starts_near_the_mean,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean of the training rows, and ridge regression on TF-IDF."""
        constant = mean_of_training(train, validation)
        context.poll()
        return [constant, ridge_on_words(train, validation, context.columns, context.most_rows)]

    def target_text(self, example: Example) -> str:
        """The number."""
        return f"{example.target:g}"

    def predicted_text(self, scores: Scores, position: int) -> str:
        """The number that was predicted."""
        return f"{scores.more['predicted'][position]:.4g}"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """How far off it is for small and for large numbers."""
        import numpy as np

        actual, predicted = scores.more["actual"], scores.more["predicted"]
        parts = [part for part in np.array_split(np.argsort(actual, kind="stable"), min(PARTS, len(actual))) if len(part)]
        rows = [
            (f"{actual[part].min():g} to {actual[part].max():g}", len(part), f"{predicted[part].mean():.4g}",
             f"{np.abs(predicted[part] - actual[part]).mean():.4g}", f"{(predicted[part] - actual[part]).mean():+.4g}")
            for part in parts
        ]  # fmt: skip
        head = ("true number", "rows", "predicted, in the mean", "mean absolute error", "mean error")
        return {"tables": [{"title": "From the smallest to the largest", "head": head, "rows": rows}]}

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The number, in the unit of the training rows."""
        from luthier.evaluation.score import score

        if not records:
            return []
        return [{"value": float(value)} for value in score(model, objective, objective.prepare(records)).more["predicted"]]

    def without_luthier(self) -> str:
        """A pipeline of transformers; its number is in standard deviations above the mean, which stand in luthier.json."""
        return 'from transformers import pipeline; pipeline("text-classification", "PATH", function_to_apply="none")("your text")  # score × spread + mean, of luthier.json'


def numbers_in(rows: Rows, column: str) -> list[float]:
    """The finite numbers of a column."""
    found = (number_of(row.get(column)) for row in rows.values)
    return [number for number in found if not math.isnan(number)]


def is_numeric(rows: Rows, column: str) -> bool:
    """Whether nearly all cells of a column that hold something hold a number."""
    filled = sum(row.get(column) is not None and str(row[column]).strip() != "" for row in rows.values)
    return bool(filled) and len(numbers_in(rows, column)) >= NEARLY_ALL * filled


def are_amounts(rows: Rows, column: str) -> bool:
    """Whether a column holds numbers that are no few repeating classes: some are not whole, or they are many and no codes."""
    if not is_numeric(rows, column):
        return False
    numbers = numbers_in(rows, column)
    kinds = len(set(numbers))
    if any(not number.is_integer() for number in numbers):
        return kinds > 1
    codes = max(numbers) - min(numbers) < 1.2 * kinds and len(numbers) >= ROWS_A_CODE * kinds
    return kinds > MANY and not codes


def find_number(rows: Rows, path: str, read: tuple[str, ...], insists: bool) -> str | None:
    """The one column that can be meant as the number to be learned; None where there is none, or where a class is likelier meant.

    Args:
        rows: of the table.
        path: for the message.
        read: columns that are read, and so not learned.
        insists: whether a person asked for a number.

    Raises:
        DataError: a person asked for one, and there is none, or several.
    """
    fits = is_numeric if insists else are_amounts
    found = [name for name in rows.columns if name not in read and fits(rows, name)]
    found = [name for name in found if name.lower() not in NO_TARGET and not name.lower().endswith("_id")] or (found if insists else [])
    if len(found) > 1:
        found = [name for name in found if name.lower() in NUMBER_NAMES] or found
    if insists and len(found) != 1:
        several = f"several columns hold numbers ({', '.join(found[:8])})" if found else f"none of the columns {', '.join(rows.columns)} holds numbers"  # fmt: skip
        raise DataError(f"{path}: {several}", "name the one to be learned: --target COLUMN")
    if len(found) != 1:
        return None
    if insists:
        return found[0]
    try:
        label = find_label(rows, path, read)
    except DataError:
        return found[0]
    named = found[0].lower() in NUMBER_NAMES and label.lower() not in TARGET_NAMES
    return found[0] if label == found[0] or named else None


def starts_near_the_mean(context: ProofContext) -> Proof:
    """A new head knows nothing: it says about the mean, whose squared error over all rows is 1 in standard deviations."""
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.mean())
    each = [((example.target - context.spec.mean) / context.spec.spread) ** 2 for example in context.rows]
    expected, everywhere = statistics.fmean(each), statistics.fmean(
        ((example.target - context.spec.mean) / context.spec.spread) ** 2 for example in context.train
    )  # fmt: skip
    return Proof(
        held=math.sqrt(began) <= math.sqrt(expected) + 1,
        claim=f"the squared error begins at {began:.3f} on {len(each)} rows; who says the mean has {expected:.3f} there, and {everywhere:.3f} over all training rows",
        evidence={"loss": began, "expected": expected, "over_all_rows": everywhere},
    )


def mean_of_training(train: Sequence[Example], validation: Sequence[Example]) -> Baseline:
    """Always the mean of the training rows."""
    import numpy as np

    from luthier.evaluation.baselines import Baseline

    mean = statistics.fmean(example.target for example in train)

    def score(examples: Sequence[Example]) -> Scores:
        actual = np.array([example.target for example in examples])
        return scores_of_numbers(np.full(len(actual), mean), actual, train[0].facts["spread"])

    return Baseline("mean of the training rows", score, score(validation))


def ridge_on_words(
    train: Sequence[Example], validation: Sequence[Example], columns: Sequence[str], most_rows: int = 1 << 40
) -> Baseline:  # fmt: skip
    """Ridge regression on TF-IDF of words and word pairs; the validation rows choose its strength.

    Args:
        train: rows to fit on; of more than `most_rows` a part.
        validation: rows that choose.
        columns: that are read.
        most_rows: training rows to fit on at most.
    """
    import numpy as np
    from sklearn.linear_model import Ridge

    from luthier.evaluation.baselines import Baseline, share_of_rows, tf_idf

    every, train = len(train), train[:: -(-len(train) // most_rows)]
    features = tf_idf(train, columns)
    seen, held, spread = features(train), features(validation), train[0].facts["spread"]
    target, expected = (np.array([example.target for example in rows]) for rows in (train, validation))
    fitted = [Ridge(alpha=strength).fit(seen, target) for strength in STRENGTHS]
    scored = [scores_of_numbers(model.predict(held), expected, spread) for model in fitted]
    best = min(range(len(fitted)), key=lambda place: float(scored[place].loss.sum()))

    def score(examples: Sequence[Example]) -> Scores:
        return scores_of_numbers(fitted[best].predict(features(examples)), np.array([example.target for example in examples]), spread)

    return Baseline(f"TF-IDF + ridge regression{share_of_rows(len(train), every)}", score, scored[best])


FAMILY = TextRegression()
