"""JSON and JSON lines: one object a row."""

from __future__ import annotations

import json
from typing import Any

from luthier.core.errors import DataError
from luthier.data.rows import Reading, Rejected, Rows


def read_lines(reading: Reading) -> Rows:
    """Read one JSON object a line; only a line feed ends a line."""
    with reading.stream() as stream:
        start = next((line for line in stream if line.strip()), "")
    return _array(reading) if start.lstrip()[:1] == "[" else _lines(reading)


def read_array(reading: Reading) -> Rows:
    """Read a JSON array of objects."""
    with reading.stream("\n") as stream:
        start = next((line for line in stream if line.strip()), "")
        several = any(line[:1] == "{" for line in stream)
    return _lines(reading) if start.lstrip()[:1] == "{" and several else _array(reading)


def _lines(reading: Reading) -> Rows:
    path, found = str(reading.path), reading.rows()
    with reading.stream("\n") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                _add(found, path, number, _parse(line))
            except (ValueError, RecursionError) as problem:
                found.rejected.append(Rejected(path, number, f"not a JSON object: {problem}", line[:200]))
    return _checked(found, path)


def _array(reading: Reading) -> Rows:
    path = str(reading.path)
    try:
        rows = _parse(reading.text())
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path} is not valid JSON: {problem}", "give a JSON array of objects, or one object a line as .jsonl") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds one {type(rows).__name__}, not a list of rows", _where_rows_lie(rows))
    found = reading.rows()
    for number, row in enumerate(rows, 1):
        _add(found, path, number, row)
    return _checked(found, path)


def _where_rows_lie(held: Any) -> str:
    """What to do with JSON that is no list of rows."""
    inside = (
        [key for key, value in held.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if isinstance(held, dict)
        else []
    )
    if inside:
        return f"the rows lie under {inside[0]!r}: write that list alone into a file"
    if isinstance(held, dict) and held and all(isinstance(value, dict | list) for value in held.values()):
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


def _add(found: Rows, path: str, line: int, row: Any) -> None:
    if not isinstance(row, dict):
        found.rejected.append(Rejected(path, line, f"a {type(row).__name__} where an object is expected", str(row)[:200]))
        return
    found.columns.extend(name for name in row if name not in found.columns)
    found.add(line, row)


def _checked(found: Rows, path: str) -> Rows:
    if not found.values:
        reason = f"; line {found.rejected[0].line}: {found.rejected[0].reason}" if found.rejected else ""
        raise DataError(f"{path} holds no rows{reason}", "give one JSON object a row")
    return found
