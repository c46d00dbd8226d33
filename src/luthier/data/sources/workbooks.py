"""Excel workbooks: one sheet, read in a process of its own; every cell becomes the text that the sheet shows, as far as it says so."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from luthier.core.errors import DataError, NoRows, nearest
from luthier.core.extras import require_extra
from luthier.core.words import several
from luthier.data.archives import ALWAYS, MOST_TIMES
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rows
from luthier.data.sources.sandbox import LIMITS
from luthier.data.sources.separated import table_of

SECONDS = 600
MEMORY = 8 << 30

READER = (
    LIMITS
    + r"""
import datetime, re, zipfile
from python_calamine import CalamineWorkbook, SheetVisibleEnum

def text(cell):
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e21 else f"{cell:.15g}"
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ")
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return "" if cell is None else str(cell)

def rows_of(book, name):
    sheet = book.get_sheet_by_name(name)
    rows = [[text(cell) for cell in row] for row in sheet.to_python(skip_empty_area=False)]
    filled = 0
    for (top, left), (bottom, _) in sheet.merged_cell_ranges or ():
        for row in range(top + 1, min(bottom + 1, len(rows))):  # the value stands in the first cell alone, and is shown across all
            if left < len(rows[row]) and rows[row][left].strip() == "":
                rows[row][left] = rows[top][left]
                filled += rows[top][left].strip() != ""
    kept = [(number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
    used = [place for _, row in kept for place, cell in enumerate(row) if cell.strip()]
    low, high = (min(used), max(used) + 1) if used else (0, 0)
    return [(number, row[low:high]) for number, row in kept], filled

def unsaved(path):  # a formula whose result no program has saved
    with zipfile.ZipFile(path) as book:
        sheets = [name for name in book.namelist() if re.match(r"xl/worksheets/[^/]*\.xml$", name)]
        return any(re.search(rb"<f(?: [^>]*)?(?:/>|>[^<]*</f>)(?:<v\s*/>|<v></v>|</c>)", book.read(name)) for name in sheets)

path, wanted = sys.argv[2], sys.argv[3]
book = CalamineWorkbook.from_path(path)
shown = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
if wanted and wanted not in book.sheet_names:
    number = int(wanted) if wanted.isdecimal() else 0
    wanted = book.sheet_names[number - 1] if 0 < number <= len(book.sheet_names) else None
    if wanted is None:
        print(json.dumps({"sheets": book.sheet_names}))
        sys.exit()
read = {name: rows_of(book, name) for name in ([wanted] if wanted else shown)}
held = {name: len(rows) for name, (rows, _) in read.items() if rows}
tables = [name for name in held if held[name] > 1 and len(read[name][0][0][1]) > 1]
name = next(iter([*tables, *held, *read]), "")
rows, filled = read.get(name, ([], 0))
blank = len(rows) > 1 and any(not any(row[place].strip() for _, row in rows[1:]) for place in range(len(rows[0][1])))
print(json.dumps({"name": name, "filled": filled, "held": held, "unsaved": blank and unsaved(path)}))
for row in rows:
    print(json.dumps(row))
"""
)


def read_workbook(source: FileOfRows) -> Rows:
    """Read one sheet of a workbook: the one that was asked for, else the first with a table in it.

    Raises:
        DataError: no reader is installed, the file is damaged or locked, or there is no such sheet.
    """
    path = source.path
    require_extra("python_calamine", f"{path}: reading Excel workbooks", DataError, "save the sheet as CSV")
    _refuse_unsound(source)
    lines = _read_sheet(source)
    about = next(lines)
    if "sheets" in about:
        raise DataError(f"{path} has no sheet {source.sheet!r}", nearest(str(source.sheet), about["sheets"]))
    cells: Iterator[tuple[int, list[str]]] = ((int(number), row) for number, row in lines)
    name = about["name"]
    others = {other: count for other, count in about["held"].items() if other != name}
    try:
        rows = table_of(_below_title(cells, source, name), source)
    except DataError as problem:
        more = f"; another sheet: --set data.sheet={next(iter(others))!r}" if others else ""
        raise DataError(f"{problem.message} (sheet {name!r})", problem.remedy + more) from None
    if others:
        listing = ", ".join(f"{other!r} ({count:,} rows)" for other, count in list(others.items())[:5])
        rows.notes.append((f"{path.name}: the sheet {name!r} is read; there is also {listing}", f"read another: --set data.sheet={next(iter(others))!r}"))  # fmt: skip
    if about["filled"]:
        rows.notes.append((f"{path.name}, sheet {name!r}: {several(about['filled'], 'cell', 'were filled')} with the value of the merged cell they belong to", "look whether it is meant for each of these rows"))  # fmt: skip
    if about["unsaved"]:
        rows.notes.append((f"{path.name}, sheet {name!r}: a column is empty, and the workbook holds formulas without a saved result", "open it in a spreadsheet program and save it: the results are read, formulas are not worked out"))  # fmt: skip
    return rows


def _refuse_unsound(source: FileOfRows) -> None:
    """Refuse what is no workbook, is locked, or unpacks to too much."""
    path = source.path
    with path.open("rb") as handle:
        start = handle.read(8)
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError(
            f"{path} is an old .xls workbook, or one with a password",
            "open it in a spreadsheet program and save it as .xlsx without a password",
        )
    if not start:
        raise NoRows(f"{path} is empty", "give a file with at least 30 rows")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise DataError(f"{path} is not a sound Excel workbook", "save it again as .xlsx; a text file is named .csv or .tsv") from None
    if "xl/workbook.xml" not in {info.filename for info in members}:
        raise DataError(f"{path} is a zip file, but no Excel workbook", "save it again as .xlsx, or name it .zip")
    whole = sum(info.file_size for info in members)
    if whole > max(ALWAYS, MOST_TIMES * path.stat().st_size) or whole > MEMORY:
        raise DataError(f"{path} unpacks to {whole >> 20:,} MiB", "save the sheet as CSV, and give that file")


def _read_sheet(source: FileOfRows) -> Iterator[Any]:
    """What the reader says, a line of JSON at a time."""
    path = source.path
    command = [sys.executable, "-I", "-c", READER, str(MEMORY), str(path.absolute()), source.sheet or ""]
    with tempfile.TemporaryFile() as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as child:
        late = threading.Timer(SECONDS, child.kill)
        late.start()
        try:
            for line in child.stdout or ():
                if line.endswith(b"\n"):
                    yield json.loads(line)
            code, in_time = child.wait(), late.is_alive()
        finally:
            late.cancel()
            child.kill()
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().split("\n")[-1]
    if not in_time:
        raise DataError(f"{path} was not read within {SECONDS} s", "save the sheet as CSV, and give that file")
    if code:
        how = last if code > 0 else f"the reader was ended by signal {-code}"
        raise DataError(f"{path} is not a sound Excel workbook: {how[:300]}", "save it again as .xlsx")


def _below_title(cells: Iterator[tuple[int, list[str]]], source: FileOfRows, name: str) -> Iterator[tuple[int, list[str]]]:
    """The rows as they are, unless a title stands above the names of the columns."""
    firsts = list(islice(cells, 30))
    counts = [_count_filled(row) for _, row in firsts]
    if len(counts) > 2 and counts[0] == 1 and sorted(counts)[len(counts) // 2] > 1:
        title = next(cell for cell in firsts[0][1] if cell.strip())
        raise DataError(
            f"{source.path}, row {firsts[0][0]}: it holds one cell ({title[:40]!r}), while the rows below hold {max(counts)}: a title above the names of the columns?",
            "delete what stands above the names of the columns: they are looked for in the first row",
        )
    return chain(firsts, cells)


def _count_filled(row: Sequence[str]) -> int:
    return sum(cell.strip() != "" for cell in row)
