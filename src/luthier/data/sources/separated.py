"""CSV and TSV: every cell stays the text it was."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from luthier.core.errors import DataError, NoRows
from luthier.core.words import plural
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows

csv.field_size_limit(1 << 30)


MARKS = {";": ";", "\t": "tab", "|": "| (a bar)"}
"""Separators that a comma-separated file does not have, and what they are called."""
SWALLOWED = 3
"""Lines inside one cell that look like whole rows from which on a quote is taken to have been left open."""
WORDS = 4
"""Of a column's name, at most, where it is not a text."""
LOOKED_AT = 10_000
"""First rows that say how many cells a row has and whether line 1 holds names."""
MOST_BROKEN = 100_000
"""Rows of another width after which reading goes on only where most are sound."""


def read_commas(source: FileOfRows) -> Rows:
    """Read comma-separated rows; quotes may hold commas and line ends."""
    path = str(source.path)
    with source.stream() as stream:
        first = stream.readline()
        if first.lstrip("\ufeff \t").startswith(('{"', '[{"')):
            raise DataError(
                f"{path}: the first line is JSON, not names with commas", "name it .jsonl where each line is an object, or .json"
            )
        mark = max(MARKS, key=first.count)
        if first.count(",") == 0 and first.count(mark):
            raise DataError(
                f"{path}: the first line holds no comma but {first.count(mark)} × {MARKS[mark]}",
                "save it as comma-separated, or name it .tsv when tabs separate the columns",
            )
        stream.seek(0)
        reader = csv.reader(stream, strict=True)
        last = [0]
        try:
            return _refuse_swallowed(table_of(_number_lines(reader, last), source), path)
        except csv.Error as problem:
            raise DataError(
                f"{path}, line {last[0] + 1}: {problem} (a quote is opened and never closed, or stands inside a cell): {_line(source, last[0] + 1)!r}",
                'double a quote that belongs to the text: ""',
            ) from None


def read_tabs(source: FileOfRows) -> Rows:
    """Read tab-separated rows; a quote is a character like any other."""
    with source.stream(newline=None) as stream:
        lines = ((number, line.removesuffix("\n")) for number, line in enumerate(stream, 1))
        return _quotes_kept(table_of(((number, line.split("\t")) for number, line in lines if line != ""), source), path=str(source.path))


def _refuse_swallowed(rows: Rows, path: str) -> Rows:
    """The rows, unless one cell holds lines that are rows of their own.

    Raises:
        DataError: a quote was opened by mistake, and another one closed it rows later.
    """
    last = rows.columns[-1]
    known: set[Any] = set()
    for line, row in zip(rows.lines, rows.values, strict=True):
        for cell in row.values():
            if cell.count("\n") <= SWALLOWED:
                continue
            inside = cell.split("\n")[1:-1]
            known = known or {other[last].strip() for other in rows.values}
            alike = [text for text in inside if text.count(",") == len(rows.columns) - 1 and text.rsplit(",", 1)[-1].strip() in known]
            if len(rows.columns) > 1 and len(alike) == len(inside):
                raise DataError(
                    f"{path}, line {line}: one cell holds {len(inside):,} lines that look like rows of their own, the first is {inside[0][:60]!r}",
                    'a quote is opened and closed rows later: take it out, or double it: ""',
                )
    return rows


def _quotes_kept(rows: Rows, path: str) -> Rows:
    """The rows, with a note where their cells stand in quotes, which a tab-separated file does not know.

    Raises:
        DataError: quoted cells run over several lines.
    """
    broken = [row for row in rows.rejected if isinstance(row.content, list) and row.content[0].startswith('"')]
    if len(broken) > 0.1 * rows.met:
        raise DataError(
            f"{path}: {len(broken):,} cells open a quote and run over several lines; the first is line {broken[0].line}. In a tab-separated file a line is a row",
            "save it as comma-separated (.csv): there quotes hold line ends together",
        )
    quoted = [name for name in rows.columns if sum(row[name][:1] == row[name][-1:] == '"' and len(row[name]) > 1 for row in rows.values) > 0.5 * len(rows.values)]  # fmt: skip
    if quoted:
        rows.notes.append((f"{path}: most cells of {quoted[0]!r} stand in quotes, which a tab-separated file keeps as part of the text", "save it as comma-separated (.csv), where quotes are taken off"))  # fmt: skip
    return rows


def _number_lines(reader: Any, last: list[int]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on; `last` says on which the one before ended."""
    for row in reader:
        if row:
            yield last[0] + 1, row
        last[0] = reader.line_num


def _line(source: FileOfRows, number: int) -> str:
    with source.stream() as stream:
        return next(islice(stream, number - 1, None), "").rstrip("\r\n")[:60]


def table_of(cells: Iterator[tuple[int, list[str]]], source: FileOfRows) -> Rows:
    """Rows with names, of cells that are texts.

    Args:
        cells: the line of each row and its cells.
        source: what was asked for.

    Raises:
        DataError: no rows, columns without a name of their own, or rows of different widths.
    """
    path, header = str(source.path), source.header
    firsts = list(islice(cells, LOOKED_AT))
    if not firsts:
        raise NoRows(f"{path} holds no rows", "give a file with at least 30 rows")
    if header is None:
        header = not _first_row_is_data([row for _, row in firsts])
    widths = Counter(len(row) for _, row in firsts)
    width = len(firsts[0][1]) if header else widths.most_common(1)[0][0]
    names = [name.strip() for name in firsts[0][1]] if header else [f"column_{index + 1}" for index in range(width)]
    if names[0] == "" and "column_1" not in names:
        names[0] = "column_1"  # a table's index, as pandas writes it
    if len(set(names)) < len(names) or "" in names:
        twice = next((name for name in names if names.count(name) > 1), "")
        column = f" (column {names.index('') + 1})" if twice == "" else ""
        raise DataError(
            f"{path}, line {firsts[0][0]}: the column name {twice!r}{column} is {'empty' if twice == '' else 'there twice'}",
            "give each column a name of its own; the names stand in the first row",
        )
    if width == 1 and header:
        _refuse_other_mark([row for _, row in firsts], path)
    rows = source.rows(names, header)
    if source.header is None and header and _are_sentences(names):
        rows.notes.append((
            f"{path}: line 1 was taken for the names of the columns, and {names[0][:40]!r} looks like a text",
            "if it is a row, say so: --set data.header=false (the columns are then column_1, column_2, …), or add a line with their names above it",
        ))  # fmt: skip
    head = firsts[0][1] if header else None
    for line, row in chain(firsts[1:] if header else firsts, cells):
        if row == head:
            rows.rejected.append(Rejected(path, line, "the names of the columns once more", row))
        elif len(row) == width:
            rows.add(line, dict(zip(names, row, strict=True)))
        else:
            expected = f"{plural(len(row), 'cell')} where {width} {'is' if width == 1 else 'are'} expected"
            rows.rejected.append(Rejected(path, line, expected, row))
        if len(rows.rejected) > max(MOST_BROKEN, rows.met):
            break
    if len(rows.rejected) > rows.met:
        usual = widths.most_common(1)[0][0]
        raise DataError(
            f"{path}: {len(rows.rejected)} of {len(rows.rejected) + rows.met + header} rows do not have the {width} cells of the first line; "
            f"the first is line {rows.rejected[0].line}",
            f"does a title stand above the names of the columns ({', '.join(firsts[0][1])[:60]!r})? Take it out: line 1 must name the {usual} columns"
            if width == 1 and usual > 1 and header
            else "quote cells that contain the separator",
        )
    return rows


def _refuse_other_mark(rows: list[list[str]], path: str) -> None:
    """Refuse one column whose lines are cut by another mark.

    Raises:
        DataError: they are.
    """
    if len(rows) < 10:
        return
    lines = [row[0] for row in rows[:LOOKED_AT] if row]
    widths = [len(next(csv.reader([line]), [])) for line in lines]  # commas inside quotes separate nothing
    if (
        widths[0] > 1
        and not any(" " in name for name in lines[0].split(","))
        and sum(width == widths[0] for width in widths) > 0.9 * len(widths)
    ):
        raise DataError(f"{path}: every line is one cell, but holds {widths[0]} cells with commas between them: another separator?", "name it .csv, or --set data.format=csv")  # fmt: skip
    for mark, name in ((",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")):
        counts = [row[0].count(mark) for row in rows if row]
        if counts[0] and sum(count == counts[0] for count in counts) > 0.8 * len(counts):
            raise DataError(
                f"{path}: every line is one cell, but holds {counts[0]} × {name}: another separator?",
                "name it .csv" if mark == "," else "save it as comma-separated (.csv) or tab-separated (.tsv)",
            )


def _are_sentences(names: list[str]) -> bool:
    """Whether what was taken for the names of columns is rather a row of texts: each has several words, or ends as a sentence does."""
    return len(names) > 1 and all(len(name.split()) > WORDS or (" " in name and name.endswith((".", "!", "?", "。"))) for name in names)


def _first_row_is_data(rows: list[list[str]]) -> bool:
    """Whether line 1 holds values, not names: one of its cells is a value that its column keeps repeating, in other rows than copies of line 1."""
    body = [row for row in rows[1:] if row != rows[0]]
    for position, cell in enumerate(rows[0]):
        column = [row[position] for row in body if len(row) > position]
        values = set(column)
        if (
            len(column) >= 20
            and len(values) <= max(2, len(column) // 3)
            and column.count(cell) >= (1 if len(values) <= max(2, len(column) // 10) else 2)
        ):
            return True
    return False
