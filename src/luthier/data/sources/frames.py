"""Rows that are in memory: a data frame, an Arrow table, a list of dicts; and rows on standard input."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.core.errors import DataError
from luthier.core.extras import require_extra

Frame = Any
"""What `read_frame` reads; the libraries of data frames are no requirement, so no type of theirs can stand here."""
STDIN = "-"
"""In place of a file: standard input."""


def is_in_memory(data: Any) -> bool:
    """Whether data is rows or texts rather than the name of a file, of a folder, or of standard input."""
    return not isinstance(data, str) and not hasattr(data, "__fspath__")


def read_frame(data: Any) -> list[dict[str, Any]]:
    """Read the rows of a table in memory, as JSON would hold them; a missing value (None, NaN, NA) becomes None.

    Args:
        data: a pandas or polars data frame, an Arrow table, a data set of the datasets library, anything else that speaks Arrow's
            or the data frame protocol, a list of dicts (one a row), or a single dict (one row).

    Raises:
        DataError: it is none of these; the message names its type, and where there is one the row.
    """
    if isinstance(data, Mapping):
        return [_plain_row(data)]
    rows = list(data) if isinstance(data, list | tuple) else _of_table(data)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number} is {describe_value(row)}, not a dict of columns", "give one dict a row: [{'text': …, 'label': …}, …]"
            )
    return [_plain_row(row) for row in rows]


def describe_value(value: Any) -> str:
    """A value's type and beginning, for a message: "an int (5)", "a Series"."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    detail = f" ({value!r})" if isinstance(value, int | float | bool) else ""
    return f"{article} {kind}{detail}"


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or the NA and NaT of a data frame."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(_json(row) + "\n" for row in rows)


def _json(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or _encodes(text) else json.dumps(row)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character pair: escaped, so that reading sets its row aside by name
        return False
    return True


def _of_table(data: Any) -> list[Any]:
    """The rows of a data frame or table, through what it offers; none of the libraries is imported for it, pyarrow only where nothing else serves."""
    if type(data).__name__ == "Series" or getattr(data, "ndim", 2) == 1:
        raise DataError(
            f"{describe_value(data)} is one column, not rows", "give its values as a list (.tolist() or .to_list()), or the data frame"
        )
    names = getattr(data, "column_names", None)
    names = getattr(data, "columns", None) if names is None else names
    if names is not None and not callable(names):
        _refuse_twice([str(name) for name in names])
    if names is not None and hasattr(data, "to_dicts"):  # polars
        return data.to_dicts()
    if names is not None and hasattr(data, "to_pylist"):  # Arrow
        return data.to_pylist()
    if names is not None and hasattr(data, "to_list"):  # the datasets library
        return data.to_list()
    if names is not None and hasattr(data, "to_dict"):  # pandas
        return data.to_dict("records")
    if hasattr(data, "to_pylist"):  # one array of Arrow's: its items are looked at one by one
        return data.to_pylist()
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__"):
        return _through_arrow(data)
    raise DataError(
        f"{describe_value(data)} is not something that rows can be read from",
        "give a file, a data frame (pandas, polars), an Arrow table, or a list of dicts",
    )


def _through_arrow(data: Any) -> list[Any]:
    require_extra("pyarrow", f"reading {describe_value(data)}", DataError, "give a list of dicts")
    import pyarrow
    from pyarrow.interchange import from_dataframe

    try:
        return (pyarrow.table(data) if hasattr(data, "__arrow_c_stream__") else from_dataframe(data)).to_pylist()
    except (TypeError, ValueError, pyarrow.ArrowException) as problem:
        raise DataError(f"no rows can be read from {describe_value(data)}: {problem}", "give a data frame, or a list of dicts") from None


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the column {twice!r} is there twice", "give each column a name of its own")


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain_cell(value) for name, value in row.items()}


def _plain_cell(value: Any) -> Any:
    """A cell as JSON holds it: numbers of numpy as numbers, dates as ISO 8601, anything else as its text."""
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, str) else value
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return _plain_row(value)
    if isinstance(value, list | tuple):
        return [_plain_cell(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if getattr(value, "ndim", 1) == 0 and getattr(getattr(value, "dtype", None), "kind", "") in tuple("biuf"):
        value = value.item()  # a number of numpy
    if hasattr(value, "tolist"):
        return _plain_cell(value.tolist())
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_stdin() -> bytes:
    """All of standard input.

    Raises:
        DataError: nothing is there.
    """
    stream = getattr(sys.stdin, "buffer", None)
    content: bytes = stream.read() if stream is not None else sys.stdin.read().encode()
    if not content.strip():
        raise DataError("standard input is empty", "pipe rows or texts into the command: … | luthier predict RUN -")
    return content


def format_of(content: bytes, columns: Sequence[str] = ()) -> str:
    """The format that piped rows are in, told from their beginning.

    A first line that is a JSON object makes it jsonl, a JSON array of objects json. Where columns are asked for, a first line that
    names them all, with commas or tabs, makes it csv or tsv, and anything else is "lines": a text each. Where none are asked for,
    it is tsv where the first line holds tabs and no comma, txt where it names one column and other lines hold more cells (a text, and no table), else csv.

    Args:
        content: the bytes.
        columns: that a header has to name; none where any header does.
    """
    text = content.decode("utf-8-sig", errors="replace")
    first = next((line for line in text.split("\n") if line.strip()), "").strip("\r")
    if _parses_as(first, dict):
        return "jsonl"
    if first.lstrip().startswith("[") and _parses_as(text, list):
        return "json"
    if first.strip() == "{" and _parses_as(text, dict):
        return "json"
    if not columns:
        return "tsv" if "\t" in first and "," not in first else "csv" if "," in first or not _has_more_cells(text) else "txt"
    for mark, name in ((",", "csv"), ("\t", "tsv")):
        if set(columns) <= {cell.strip().strip('"') for cell in first.split(mark)}:
            return name
    return "lines"


def _has_more_cells(text: str) -> bool:
    """Whether some lines hold commas outside of quotes: below a header of one column they do in a text, and not in a table."""
    try:
        return any(len(cells) > 1 for cells in csv.reader(text.splitlines(keepends=True)))
    except csv.Error:
        return False


def _parses_as(text: str, kind: type) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, kind) and (kind is dict or all(isinstance(item, dict) for item in value))
