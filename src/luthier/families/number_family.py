"""What families with one number a row have in common, whatever the rows are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.proof import Proof, ProofContext
from luthier.core.types import Example, Record, Scores
from luthier.data.check.numbers import HOPELESS, find_far
from luthier.data.infer import TARGET_NAMES, find_label
from luthier.data.row_reader import Columns
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.data.usable_rows import reject_reason
from luthier.data.written_numbers import REMEDY, describe_written_numbers, find_written_numbers
from luthier.evaluation.metric_choice import AUTO
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.objectives.regression import number_of, scores_of_numbers

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline

NEARLY_ALL = 0.95
"""Share of the filled cells of a column that are numbers, from which on it is a column of numbers."""
NO_NUMBER = ("", "nan", "inf", "infinity", "none", "null", "na", "n/a")
"""What programs write into a column of numbers where there is none: such rows are set aside, and the column stays one of numbers."""
MANY = 50
"""Different whole numbers above which they are amounts, and no longer classes that have a number for a name."""
ROWS_A_CODE = 10
"""Rows that each of many whole numbers without gaps has in the mean where they are codes of classes, such as 0 to 76."""
NUMBER_NAMES = (*TARGET_NAMES, "score", "similarity", "price", "value", "amount", "stars", "points", "grade", "number")
NO_TARGET = ("id", "index", "idx", "row", "year", "date", "time", "timestamp")
"""Columns of these names, or that end in _id, are not learned unless they are named."""
PARTS = 5
"""Of the test rows by their number, for the report."""
OUTPUT, PROBLEM = ["value"], "regression"
"""The name of the one output of a network, and what it means, as transformers calls it."""


class NumberFamily(Family):
    """One number a row: standardised, learned by its squared error, judged in its own unit."""

    metrics = ("rmse", "mae", "r2", "spearman", "loss")
    gives = "number"
    learns_classes: str
    """The family that learns classes of the same kind of rows, for a remedy."""

    # rows

    def find_target(self, rows: Rows, path: str, asked: Data, read: tuple[str, ...]) -> tuple[str, str] | None:
        """The column of numbers that is learned, and what it holds; None where a person did not insist and no amounts are there.

        Args:
            rows: of the training file, with the columns that can be meant.
            path: of it, for messages.
            asked: what the person named.
            read: columns that are read, and so not learned.

        Raises:
            DataError: a person insists, and there are no numbers, or several columns of them.
        """
        insists = asked.task == self.name
        target = asked.target or find_number(rows, path, read, insists)
        if target is None or not (insists or are_amounts(rows, target)):
            return None
        numbers = numbers_in(rows, target)
        if insists and (how := describe_written_numbers(rows, target)):
            raise DataError(f"{path}: the cells of {target!r} {how}", f"{REMEDY}; or learn classes: --task {self.learns_classes}")
        if not numbers:
            raise DataError(
                f"{path}: the column {target!r} holds no numbers: the first cell is {str(rows.values[0].get(target))[:40]!r}",
                f"name another column with --target, or learn classes: --task {self.learns_classes}",
            )
        return target, f"{target!r} holds numbers from {min(numbers):g} to {max(numbers):g}, {len(set(numbers)):,} different ones"

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without something to read or without a finite number a row teaches nothing."""
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

    # judging

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


def numbers_in(rows: Rows, column: str) -> list[float]:
    """The finite numbers of a column."""
    found = (number_of(row.get(column)) for row in rows.values)
    return [number for number in found if not math.isnan(number)]


def is_numeric(rows: Rows, column: str) -> bool:
    """Whether nearly all cells of a column that hold something hold a number."""
    cells = (str(row[column]).strip() for row in rows.values if row.get(column) is not None)
    filled = sum(cell.lower().lstrip("+-") not in NO_NUMBER for cell in cells)
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


def columns_of_amounts(rows: Rows, read: tuple[str, ...]) -> list[str]:
    """The columns of amounts that are not read, and not named as numbers of rows or times are.

    Args:
        rows: of the table.
        read: columns that are read.
    """
    return [name for name in rows.columns if name not in read and not _seldom_learned(name) and are_amounts(rows, name)]


def say_numbers(names: list[str]) -> str:
    """Which columns hold numbers, as a sentence.

    Args:
        names: of the columns, one or more.
    """
    return f"{' and '.join(repr(name) for name in names[:3])} {'holds' if len(names) == 1 else 'hold'} numbers"


def _seldom_learned(name: str) -> bool:
    return name.lower() in NO_TARGET or name.lower().endswith("_id")


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
    if insists:
        numeric = [name for name in rows.columns if name not in read and is_numeric(rows, name)]
        found = [name for name in numeric if not _seldom_learned(name)] or numeric
    else:
        found = columns_of_amounts(rows, read)
    if len(found) > 1:
        found = [name for name in found if name.lower() in NUMBER_NAMES] or found
    if insists and not found and (written := find_written_numbers(rows, read)):
        raise DataError(f"{path}: the cells of {written[0]!r} {written[1]}", REMEDY)
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

    mean = statistics.fmean(example.target for example in train)
    return number_baseline("mean of the training rows", lambda examples: np.full(len(examples), mean), train, validation)


def number_baseline(name: str, predict: Any, train: Sequence[Example], validation: Sequence[Example]) -> Baseline:
    """A fitted model of a number as a baseline.

    Args:
        name: for a person.
        predict: rows → numbers in the target's own unit, # (examples,)
        train: the training rows.
        validation: the validation rows.
    """
    import numpy as np

    from luthier.evaluation.baselines import Baseline

    def score(examples: Sequence[Example]) -> Scores:
        actual: np.ndarray = np.array([example.target for example in examples])
        return scores_of_numbers(predict(examples), actual, train[0].facts["spread"])

    return Baseline(name, score, score(validation))
