"""What the columns of a table look like: a label, a text, a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.errors import DataError, nearest
from luthier.core.words import plural
from luthier.data.rows import Rows
from luthier.data.written_numbers import REMEDY, find_written_numbers

TARGET_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "intent", "topic", "rating", "type", "y")
TEXT_NAMES = ("text", "sentence", "review", "comment", "message", "feedback", "body", "content", "description", "title")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"))
"""Two texts of which the label speaks together, as the well-known sets name them: one alone cannot tell it."""
CHAT_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("messages",), "messages"),
    (("conversations",), "conversations"),
    (("instruction", "input"), "output"),
    (("instruction",), "output"),
    (("instruction",), "response"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("question",), "answer"),
)


def refuse_columns(rows: Rows, path: str, names: Sequence[str]) -> None:
    """Refuse columns that were named and are not there, or say nothing in any row.

    Raises:
        DataError: it is so.
    """
    for name in names:
        if name not in rows.columns:
            raise DataError(f"{path} has no column {name!r}", nearest(name, rows.columns))
        refuse_empty(rows, path, name)


def find_conversation(rows: Rows, input: tuple[str, ...], target: str | None, insists: bool = False) -> tuple[tuple[str, ...], str] | None:
    """The columns that make a conversation, as well-known data sets name them: what is read, and what is learned.

    Args:
        rows: of the table.
        input: columns that were named; only a shape with these is found.
        target: the same.
        insists: whether a person asked for conversations; else a few answers that repeat are taken for classes.
    """
    for names, learned in CHAT_SHAPES:
        if set(names) | {learned} <= set(rows.columns) and target in (None, learned) and input in ((), names):
            if (
                not insists
                and names in (("question",), ("prompt",))
                and len({str(row.get(learned)) for row in rows.values}) < len(rows.values) / 5
            ):
                continue
            return names, learned
    return None


def find_text(rows: Rows, path: str, target: str | None, pair: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The column or columns that hold the text, and why.

    Args:
        rows: of the table.
        path: for the message.
        target: the column that is learned; it is not read.
        pair: two columns that are read together, where the table has such.

    Raises:
        DataError: there is no other column.
    """
    if pair:
        return pair, f"{pair[0]!r} and {pair[1]!r} are a pair of texts: both are read"
    lengths = {name: mean_length(rows, name) for name in rows.columns if name != target}
    if not lengths:
        raise DataError(f"{path} has only the column {target!r}", "give the text in a column of its own")
    candidates = [name for name in lengths if name.lower() in TEXT_NAMES and lengths[name] > 0.5 * max(lengths.values())]
    best = candidates[0] if candidates else max(lengths, key=lambda name: lengths[name])
    return (best,), f"{best!r} holds the text (mean {lengths[best]:.0f} characters)"


def find_pair(rows: Rows, target: str | None) -> tuple[str, ...]:
    """The columns of a well-known pair of texts, where the table has both."""
    names = {name.lower(): name for name in rows.columns if name != target}
    pairs = (tuple(names[name] for name in pair) for pair in PAIRS if set(pair) <= set(names))
    return next((pair for pair in pairs if all(mean_length(rows, name) > 0 for name in pair)), ())


def count_values(rows: Rows, column: str) -> str:
    """How many values a column takes, for a person."""
    kinds = len({text_of(row.get(column)) for row in rows.values})
    return f"{column!r} takes {plural(kinds, 'value')} over {plural(len(rows.values), 'row')}"


def refuse_empty(rows: Rows, path: str, name: str) -> None:
    """Refuse a column that says nothing in any row.

    Raises:
        DataError: it is so.
    """
    if rows.values and all(_is_empty(row.get(name)) for row in rows.values):
        others = [other for other in rows.columns if other != name and not all(_is_empty(row.get(other)) for row in rows.values)]
        noted = "".join(f"; {claim}: {remedy}" for claim, remedy in rows.notes)  # such as formulas whose results nobody saved
        raise DataError(
            f"{path}: the column {name!r} is empty in all {len(rows.values):,} rows",
            f"fill it, or name another column ({', '.join(others[:8]) or 'there is none that holds anything'}){noted}",
        )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def find_label(rows: Rows, path: str, input: tuple[str, ...]) -> str:
    """The column that looks like a label: a well-known name, or few values that repeat.

    Args:
        rows: of the table.
        path: for the message.
        input: columns that are read, and so no label.

    Raises:
        DataError: none does.
    """

    def score(name: str) -> tuple[int, int]:
        position = TARGET_NAMES.index(name.lower()) if name.lower() in TARGET_NAMES else len(TARGET_NAMES)
        return position, len({text_of(row.get(name)) for row in rows.values})

    fitting = [
        name
        for name in rows.columns
        if name not in input and 2 <= score(name)[1] <= max(2, min(500, len(rows.values) // 3)) and mean_length(rows, name) < 60
    ]
    best = min(fitting, key=score, default=None)
    rank = score(best)[0] if best else len(TARGET_NAMES)
    for name in rows.columns:  # an empty column called label is a mistake in the file: another one must not quietly take its place
        if name.lower() in TARGET_NAMES[:rank]:
            refuse_empty(rows, path, name)
    if best is None:
        constant = [name for name in rows.columns if score(name)[1] == 1]
        if constant and len(rows.columns) == 2:
            refuse_empty(rows, path, constant[0])
            if text_of(rows.values[0].get(constant[0])) in ("[]", "{}"):
                raise DataError(f"{path}: {constant[0]!r} is [] in all {len(rows.values):,} rows", "label some rows, or name another column with --target")  # fmt: skip
            raise DataError(f"{path}: the column {constant[0]!r} holds one value only", "a classifier needs rows of at least 2 classes")
        texts = [name for name in rows.columns if mean_length(rows, name) > 10 and score(name)[1] > len(rows.values) // 2]
        if len(rows.columns) == 1 and path.lower().endswith(".txt"):
            raise DataError(
                f"{path} is a text without columns, and nothing says what is to be learned from it",
                "name it: --task causal_lm, masked_lm or word2vec; of labelled rows give a table",
            )
        written = find_written_numbers(rows, input)
        if written is not None:
            raise DataError(
                f"{path}: none of the columns {', '.join(rows.columns)} looks like a label, and the cells of {written[0]!r} {written[1]}",
                REMEDY,
            )
        raise DataError(
            f"{path}: none of the columns {', '.join(rows.columns)} looks like a label (2 or more values that repeat)",
            "name it: --target COLUMN"
            + ("; two texts that belong together: --task translation, embedding or chat" if len(texts) > 1 else ""),
        )
    return best


def mean_length(rows: Rows, name: str) -> float:
    """Characters of a column's cells in the mean."""
    return sum(len(text_of(row.get(name))) for row in rows.values) / max(len(rows.values), 1)


def text_of(value: Any) -> str:
    """A cell as text."""
    return value if isinstance(value, str) else "" if value is None else str(value)
