"""CSV and TSV: every cell stays the text it was."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

from luthier.core.errors import DataError
from luthier.data.rows import Reading, Rejected, Rows

csv.field_size_limit(1 << 30)


def read_commas(reading: Reading) -> Rows:
    """Read comma-separated rows; quotes may hold commas and line ends."""
    text, path = reading.text(), str(reading.path)
    first = text.split("\n", 1)[0]
    if first.count(",") == 0 and (first.count(";") or first.count("\t")):
        mark = ";" if first.count(";") >= first.count("\t") else "tab"
        raise DataError(
            f"{path}: the first line holds no comma but {first.count(';') or first.count(chr(9))} × {mark}",
            "save it as comma-separated, or name it .tsv when tabs separate the columns",
        )
    cells: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        cells.extend(_numbered(reader))
    except csv.Error as problem:
        began = text.split("\n")[: reader.line_num]
        line = cells[-1][0] + 1 if cells else 1
        line += sum(cell.count("\n") for cell in cells[-1][1]) if cells else 0
        shown = began[line - 1][:60] if line <= len(began) else ""
        raise DataError(
            f"{path}, line {line}: {problem} (a quote is opened and never closed, or stands inside a cell): {shown!r}",
            'double a quote that belongs to the text: ""',
        ) from None
    return _rows(cells, path, reading.header)


def read_tabs(reading: Reading) -> Rows:
    """Read tab-separated rows; a quote is a character like any other."""
    text = reading.text()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return _rows([(number, line.split("\t")) for number, line in enumerate(lines, 1) if line != ""], str(reading.path), reading.header)


def _numbered(reader: Any) -> Any:
    last = 0
    for row in reader:
        if row:
            yield last + 1, row
        last = reader.line_num


def _rows(cells: list[tuple[int, list[str]]], path: str, header: bool | None) -> Rows:
    if not cells:
        raise DataError(f"{path} holds no rows", "give a file with at least 30 rows")
    if header is None:
        header = not _first_row_is_data([row for _, row in cells])
    width = len(cells[0][1]) if header else Counter(len(row) for _, row in cells).most_common(1)[0][0]
    names = [name.strip() for name in cells[0][1]] if header else [f"column_{number + 1}" for number in range(width)]
    if len(set(names)) < len(names) or "" in names:
        twice = next((name for name in names if names.count(name) > 1), "")
        raise DataError(
            f"{path}, line 1: the column name {twice!r} is {'empty' if twice == '' else 'there twice'}",
            "give each column a name of its own",
        )
    found = Rows(columns=names, header=header)
    for line, row in cells[1:] if header else cells:
        if len(row) != width:
            found.rejected.append(Rejected(path, line, f"{len(row)} cells where {width} are expected", row))
        else:
            found.add(line, dict(zip(names, row, strict=True)))
    if len(found.rejected) > len(found.values):
        raise DataError(
            f"{path}: {len(found.rejected)} of {len(cells)} rows do not have the {width} cells of the first line; "
            f"the first is line {found.rejected[0].line}",
            "quote cells that contain the separator",
        )
    return found


def _first_row_is_data(rows: list[list[str]]) -> bool:
    """Whether line 1 holds values, not names: one of its cells is a value that its column keeps repeating."""
    body = rows[1:]
    for position, cell in enumerate(rows[0]):
        column = [row[position] for row in body if len(row) > position]
        values = set(column)
        if len(column) >= 20 and len(values) <= max(2, len(column) // 10) and cell in values:
            return True
    return False
