"""Report text columns that the model does not read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from luthier.core.finding import Finding
from luthier.data.near_duplicates import normalise
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows

LOOKED_AT = 2_000
"""Rows that say whether a column holds texts."""
LEAST_WORDS = 3.0
"""Words that the cells of a text column have in the mean."""
LEAST_DIFFERENT = 0.1
"""Share of the cells of a text column that differ."""
SAME = 0.5
"""Share of the cells from which on a column is another form of one that is read."""
NAMED = 3
FILE = re.compile(r"[^\n]{0,250}\.(txt|md|pdf|docx?|html?|rtf|json|xml|csv|wav|mp3|flac|ogg|mp4|eml|png|jpe?g)", re.IGNORECASE)


def find_unread(rows: Rows, shape: Columns, kind: RowKind, asked: Sequence[str]) -> list[Finding]:
    """Text columns that are neither read nor learned, with the command that reads them too.

    Args:
        rows: of the training file.
        shape: the columns that are used.
        kind: what the rows are like.
        asked: the columns that the person named; where there are some, the choice is theirs and nothing is said.
    """
    if asked or kind.images or kind.learns not in ("class", "answer") or shape.input == (shape.target,):
        return []
    some = rows.values[:LOOKED_AT]
    read = [{normalise(str(row.get(name) or "")) for name in shape.names} for row in some]
    unread = [name for name in rows.columns if name not in shape.names and _holds_texts(some, name)]
    unread = [name for name in unread if sum(normalise(row[name] or "") in texts for row, texts in zip(some, read, strict=True) if isinstance(row.get(name), str)) < SAME * len(some)]  # fmt: skip
    if not unread:
        return []
    lengths = {name: sum(len(str(row.get(name) or "")) for row in some) / len(some) for name in unread}
    listing = ", ".join(f"{name!r} (mean {lengths[name]:.0f} characters)" for name in unread[:NAMED])
    more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
    single = len(unread) == 1
    columns = [name for name in rows.columns if name in (*shape.input, *unread[:NAMED])]
    command = f"--input {','.join(columns)} --target {shape.target}" + (f" --task {shape.task}" if kind.learns == "answer" else "")
    return [
        Finding(
            check="columns.unread",
            claim=f"the text column{'' if single else 's'} {listing}{more} {'is' if single else 'are'} not read",
            remedy=f"if {'it is' if single else 'they are'} there when the model is used, read {'both' if len(columns) == 2 else 'them too'}: {command}",
            evidence={"unread": lengths},
        )
    ]


def find_file_names(rows: Rows, shape: Columns, kind: RowKind) -> list[Finding]:
    """An input column that names files instead of holding texts."""
    some = rows.values[:LOOKED_AT]
    if kind.images:
        return []
    for name in shape.input:
        cells = [row[name].strip() for row in some if isinstance(row.get(name), str) and row[name].strip()]
        if cells and sum(FILE.fullmatch(cell) is not None for cell in cells) > 0.9 * len(cells):
            claim = f"the column {name!r} holds names of files ({cells[0][:60]!r}): the names are read, not what the files hold"
            return [Finding(check="columns.files", severity="warning", claim=claim, remedy="put the texts themselves into the column, or give the folder of files")]  # fmt: skip
    return []


def _holds_texts(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column's cells are texts of several words, and differ."""
    cells = [row.get(name) for row in rows]
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if len(texts) < len(cells) / 4 or len(set(texts)) < LEAST_DIFFERENT * len(texts):
        return False
    words = sum(sum(any(sign.isalpha() for sign in word) for word in text.split()) for text in texts) / len(texts)
    return words >= LEAST_WORDS
