"""JSON and JSON lines: one object a row."""

from __future__ import annotations

import json
from typing import Any

from luthier.core.errors import DataError
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows


def read_lines(source: FileOfRows) -> Rows:
    """Read one JSON object a line; only a line feed ends a line."""
    with source.stream() as stream:
        start = next((line for line in stream if line.strip()), "")
    return _array(source) if start.lstrip()[:1] == "[" else _lines(source)


def read_array(source: FileOfRows) -> Rows:
    """Read a JSON array of objects."""
    with source.stream("\n") as stream:
        start = next((line for line in stream if line.strip()), "")
        several = any(line[:1] == "{" for line in stream)
    return _lines(source) if start.lstrip()[:1] == "{" and several else _array(source)


def _lines(source: FileOfRows) -> Rows:
    path, rows = str(source.path), source.rows()
    with source.stream("\n") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                _add(rows, path, number, _parse(line))
            except (ValueError, RecursionError) as problem:
                rows.rejected.append(Rejected(path, number, f"not a JSON object: {problem}", line[:200]))
    return _require_rows(rows, path)


def _array(source: FileOfRows) -> Rows:
    path = str(source.path)
    try:
        rows = _parse(source.text())
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path} is not valid JSON: {problem}", "give a JSON array of objects, or one object a line as .jsonl") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds one {type(rows).__name__}, not a list of rows", _where_rows_lie(rows))
    table = source.rows()
    for number, row in enumerate(rows, 1):
        _add(table, path, number, row)
    return _require_rows(table, path)


def _where_rows_lie(content: Any) -> str:
    """What to do with JSON that is no list of rows."""
    inside = (
        [key for key, value in content.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if isinstance(content, dict)
        else []
    )
    if inside:
        return f"the rows lie under {inside[0]!r}: write that list alone into a file"
    if isinstance(content, dict) and content and all(isinstance(value, dict | list) for value in content.values()):
        return "the columns lie one below the other: write rows, as pandas does with to_json(path, orient='records')"
    return "give a JSON array of objects"


def _parse(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(items)
        if len(row) < len(items):
            raise ValueError("a key is there twice")
        return row

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)


def _add(rows: Rows, path: str, line: int, row: Any) -> None:
    if not isinstance(row, dict):
        rows.rejected.append(Rejected(path, line, f"a {type(row).__name__} where an object is expected", str(row)[:200]))
        return
    rows.columns.extend(name for name in row if name not in rows.columns)
    rows.add(line, row)


def _require_rows(rows: Rows, path: str) -> Rows:
    if not rows.values:
        reason = f"; line {rows.rejected[0].line}: {rows.rejected[0].reason}" if rows.rejected else ""
        raise DataError(f"{path} holds no rows{reason}", "give one JSON object a row")
    return rows
