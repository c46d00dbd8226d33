"""CSV and TSV: every cell stays the text it was."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from luthier.core.errors import DataError
from luthier.data.rows import Reading, Rejected, Rows

csv.field_size_limit(1 << 30)


LOOKED_AT = 10_000
"""First rows that say how many cells a row has and whether line 1 holds names."""
MOST_BROKEN = 100_000
"""Rows of another width after which reading goes on only where most are sound."""


def read_commas(reading: Reading) -> Rows:
    """Read comma-separated rows; quotes may hold commas and line ends."""
    path = str(reading.path)
    with reading.stream() as stream:
        first = stream.readline()
        if first.count(",") == 0 and (first.count(";") or first.count("\t")):
            mark = ";" if first.count(";") >= first.count("\t") else "tab"
            raise DataError(
                f"{path}: the first line holds no comma but {first.count(';') or first.count(chr(9))} × {mark}",
                "save it as comma-separated, or name it .tsv when tabs separate the columns",
            )
        stream.seek(0)
        reader = csv.reader(stream, strict=True)
        last = [0]
        try:
            return table_of(_numbered(reader, last), reading)
        except csv.Error as problem:
            raise DataError(
                f"{path}, line {last[0] + 1}: {problem} (a quote is opened and never closed, or stands inside a cell): {_line(reading, last[0] + 1)!r}",
                'double a quote that belongs to the text: ""',
            ) from None


def read_tabs(reading: Reading) -> Rows:
    """Read tab-separated rows; a quote is a character like any other."""
    with reading.stream(newline=None) as stream:
        lines = ((number, line.removesuffix("\n")) for number, line in enumerate(stream, 1))
        return table_of(((number, line.split("\t")) for number, line in lines if line != ""), reading)


def _numbered(reader: Any, last: list[int]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on; `last` says on which the one before ended."""
    for row in reader:
        if row:
            yield last[0] + 1, row
        last[0] = reader.line_num


def _line(reading: Reading, number: int) -> str:
    with reading.stream() as stream:
        return next(islice(stream, number - 1, None), "").rstrip("\r\n")[:60]


def table_of(cells: Iterator[tuple[int, list[str]]], reading: Reading) -> Rows:
    """Rows with names, of cells that are texts.

    Args:
        cells: the line of each row and its cells.
        reading: what was asked for.

    Raises:
        DataError: no rows, columns without a name of their own, or rows of different widths.
    """
    path, header = str(reading.path), reading.header
    firsts = list(islice(cells, LOOKED_AT))
    if not firsts:
        raise DataError(f"{path} holds no rows", "give a file with at least 30 rows")
    if header is None:
        header = not _first_row_is_data([row for _, row in firsts])
    widths = Counter(len(row) for _, row in firsts)
    width = len(firsts[0][1]) if header else widths.most_common(1)[0][0]
    names = [name.strip() for name in firsts[0][1]] if header else [f"column_{number + 1}" for number in range(width)]
    if names[0] == "" and "column_1" not in names:
        names[0] = "column_1"  # a table's index, as pandas writes it
    if len(set(names)) < len(names) or "" in names:
        twice = next((name for name in names if names.count(name) > 1), "")
        place = f" (column {names.index('') + 1})" if twice == "" else ""
        raise DataError(
            f"{path}, line {firsts[0][0]}: the column name {twice!r}{place} is {'empty' if twice == '' else 'there twice'}",
            "give each column a name of its own; the names stand in the first row",
        )
    found = reading.rows(names, header)
    for line, row in chain(firsts[1:] if header else firsts, cells):
        if len(row) == width:
            found.add(line, dict(zip(names, row, strict=True)))
            continue
        found.rejected.append(Rejected(path, line, f"{len(row)} cells where {width} are expected", row))
        if len(found.rejected) > max(MOST_BROKEN, found.met):
            break
    if len(found.rejected) > found.met:
        usual = widths.most_common(1)[0][0]
        raise DataError(
            f"{path}: {len(found.rejected)} of {len(found.rejected) + found.met + header} rows do not have the {width} cells of the first line; "
            f"the first is line {found.rejected[0].line}",
            f"does a title stand above the names of the columns ({', '.join(firsts[0][1])[:60]!r})? Take it out: line 1 must name the {usual} columns"
            if width == 1 and usual > 1 and header
            else "quote cells that contain the separator",
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
