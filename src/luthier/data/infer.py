"""What a table of rows is for: which columns are read and which is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError, nearest
from luthier.core.words import plural
from luthier.data.rows import Rows

TARGET_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "intent", "topic", "rating", "type", "y")
TEXT_NAMES = ("text", "sentence", "review", "comment", "message", "feedback", "body", "content", "description", "title")
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
    if target is None:
        target = _target(rows, path, input)
        kinds = len({_text(row.get(target)) for row in rows.values})
        why.append(f"{target!r} takes {plural(kinds, 'value')} over {plural(len(rows.values), 'row')}")
    if not input:
        lengths = {name: _mean_length(rows, name) for name in rows.columns if name != target}
        if not lengths:
            raise DataError(f"{path} has only the column {target!r}", "give the text in a column of its own")
        named = [name for name in lengths if name.lower() in TEXT_NAMES and lengths[name] > 0.5 * max(lengths.values())]
        best = named[0] if named else max(lengths, key=lambda name: lengths[name])
        input = (best,)
        why.append(f"{best!r} holds the text (mean {lengths[best]:.0f} characters)")
    return Shape("classification", input, target, "; ".join(why) or "task and columns as given")


def _target(rows: Rows, path: str, input: tuple[str, ...]) -> str:
    def score(name: str) -> tuple[int, int]:
        named = TARGET_NAMES.index(name.lower()) if name.lower() in TARGET_NAMES else len(TARGET_NAMES)
        return named, len({_text(row.get(name)) for row in rows.values})

    fitting = [
        name
        for name in rows.columns
        if name not in input and 2 <= score(name)[1] <= max(2, min(500, len(rows.values) // 3)) and _mean_length(rows, name) < 60
    ]
    if not fitting:
        constant = [name for name in rows.columns if score(name)[1] == 1]
        if constant and len(rows.columns) == 2:
            raise DataError(f"{path}: the column {constant[0]!r} holds one value only", "a classifier needs rows of at least 2 classes")
        raise DataError(
            f"{path}: none of the columns {', '.join(rows.columns)} looks like a label (2 or more values that repeat)",
            "name it: --target COLUMN",
        )
    return min(fitting, key=score)


def _mean_length(rows: Rows, name: str) -> float:
    return sum(len(_text(row.get(name))) for row in rows.values) / max(len(rows.values), 1)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
