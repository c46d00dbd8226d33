"""What a table of rows is for: which columns are read and which is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError, nearest
from luthier.core.words import plural
from luthier.data.rows import Rows

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


@dataclass(frozen=True)
class Shape:
    """What was found, and why.

    Args:
        task: classification or chat.
        input: the columns that are read.
        target: the column that is learned.
        reason: one sentence for the person.
    """

    task: str
    input: tuple[str, ...]
    target: str
    reason: str


def infer(rows: Rows, path: str, task: str | None = None, input: tuple[str, ...] = (), target: str | None = None) -> Shape:
    """Find the task and its columns; what is given is taken, the rest is looked for.

    Raises:
        DataError: a named column is not there, or nothing fits.
    """
    for name in (*input, *([target] if target else [])):
        if name not in rows.columns:
            raise DataError(f"{path} has no column {name!r}", nearest(name, rows.columns))
        _refuse_empty(rows, path, name)
    if {"pixels", "thumbnail"} <= set(rows.columns) and task in (None, "image_classification"):
        return _images(rows, path, input, target)
    if {"chosen", "rejected"} <= set(rows.columns) and task in (None, "preference") and not target:
        names = input or tuple(name for name in ("prompt", "question", "instruction") if name in rows.columns)[:1]
        return Shape("preference", names, "chosen", "the columns chosen and rejected are preference pairs")
    if task != "classification" and not (input and target):
        shape = _chat(rows, input, target)
        if shape is not None:
            return shape
    if task == "chat":
        if input and target:
            return Shape("chat", input, target, f"task and columns as given: {' + '.join(input)} → {target}")
        raise DataError(
            f"{path}: no conversation found among the columns {', '.join(rows.columns)}", "name them: --input question --target answer"
        )
    return _classification(rows, path, input, target)


def _images(rows: Rows, path: str, input: tuple[str, ...], target: str | None) -> Shape:
    from luthier.data.sources.images import ENDINGS, KEPT

    named = [name for name in rows.columns if str(rows.values[0].get(name) or "").lower().endswith(ENDINGS)]
    column = input or (named[0],)
    others = Rows(columns=[name for name in rows.columns if name not in (*column, *KEPT)], values=rows.values)
    target = target or _target(others, path, column)
    kinds = len({_text(row.get(target)) for row in rows.values})
    return Shape(
        "image_classification",
        column,
        target,
        f"{column[0]!r} names images; {target!r} takes {plural(kinds, 'value')} over {plural(len(rows.values), 'row')}",
    )


def _chat(rows: Rows, input: tuple[str, ...], target: str | None) -> Shape | None:
    for names, learned in CHAT_SHAPES:
        if set(names) | {learned} <= set(rows.columns) and target in (None, learned) and input in ((), names):
            if names in (("question",), ("prompt",)) and len({str(row.get(learned)) for row in rows.values}) < len(rows.values) / 5:
                continue
            columns = learned if names == (learned,) else f"{' + '.join(names)} → {learned}"
            return Shape("chat", names, learned, f"the columns {columns} are a conversation")
    return None


def _classification(rows: Rows, path: str, input: tuple[str, ...], target: str | None) -> Shape:
    why = []
    pair = () if input else _pair(rows, target)
    if target is None:
        target = _target(rows, path, input or pair)
        kinds = len({_text(row.get(target)) for row in rows.values})
        why.append(f"{target!r} takes {plural(kinds, 'value')} over {plural(len(rows.values), 'row')}")
    if pair:
        input = pair
        why.append(f"{pair[0]!r} and {pair[1]!r} are a pair of texts: both are read")
    if not input:
        lengths = {name: _mean_length(rows, name) for name in rows.columns if name != target}
        if not lengths:
            raise DataError(f"{path} has only the column {target!r}", "give the text in a column of its own")
        named = [name for name in lengths if name.lower() in TEXT_NAMES and lengths[name] > 0.5 * max(lengths.values())]
        best = named[0] if named else max(lengths, key=lambda name: lengths[name])
        input = (best,)
        why.append(f"{best!r} holds the text (mean {lengths[best]:.0f} characters)")
    return Shape("classification", input, target, "; ".join(why) or "task and columns as given")


def _pair(rows: Rows, target: str | None) -> tuple[str, ...]:
    """The columns of a well-known pair of texts, where the table has both."""
    known = {name.lower(): name for name in rows.columns if name != target}
    found = (tuple(known[name] for name in pair) for pair in PAIRS if set(pair) <= set(known))
    return next((pair for pair in found if all(_mean_length(rows, name) > 0 for name in pair)), ())


def _refuse_empty(rows: Rows, path: str, name: str) -> None:
    """Refuse a column that says nothing in any row.

    Raises:
        DataError: it is so.
    """
    if rows.values and all(_is_empty(row.get(name)) for row in rows.values):
        others = [other for other in rows.columns if other != name and not all(_is_empty(row.get(other)) for row in rows.values)]
        raise DataError(
            f"{path}: the column {name!r} is empty in all {len(rows.values):,} rows",
            f"fill it, or name another column ({', '.join(others[:8]) or 'there is none that holds anything'})",
        )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _target(rows: Rows, path: str, input: tuple[str, ...]) -> str:
    def score(name: str) -> tuple[int, int]:
        named = TARGET_NAMES.index(name.lower()) if name.lower() in TARGET_NAMES else len(TARGET_NAMES)
        return named, len({_text(row.get(name)) for row in rows.values})

    fitting = [
        name
        for name in rows.columns
        if name not in input and 2 <= score(name)[1] <= max(2, min(500, len(rows.values) // 3)) and _mean_length(rows, name) < 60
    ]
    best = min(fitting, key=score, default=None)
    rank = score(best)[0] if best else len(TARGET_NAMES)
    for name in rows.columns:  # an empty column called label is a mistake in the file: another one must not quietly take its place
        if name.lower() in TARGET_NAMES[:rank]:
            _refuse_empty(rows, path, name)
    if best is None:
        constant = [name for name in rows.columns if score(name)[1] == 1]
        if constant and len(rows.columns) == 2:
            raise DataError(f"{path}: the column {constant[0]!r} holds one value only", "a classifier needs rows of at least 2 classes")
        raise DataError(
            f"{path}: none of the columns {', '.join(rows.columns)} looks like a label (2 or more values that repeat)",
            "name it: --target COLUMN",
        )
    return best


def _mean_length(rows: Rows, name: str) -> float:
    return sum(len(_text(row.get(name))) for row in rows.values) / max(len(rows.values), 1)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
