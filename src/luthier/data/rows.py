"""A file's rows as they were read, and those that could not be."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.randomness import mix
from luthier.core.types import Record


@dataclass(frozen=True)
class Rejected:
    """A row that was set aside.

    Args:
        file: where it stood.
        line: the line it began on, from 1.
        reason: why it cannot be used.
        content: what stood there.
    """

    file: str
    line: int
    reason: str
    content: Any


@dataclass
class Rows:
    """What a source found in one file.

    Args:
        columns: the names, in order.
        header: whether line 1 held the names.
        values: one mapping a row.
        lines: the line each row began on.
        rejected: what was set aside.
        most: rows that are kept, evenly by chance, of a file that holds more; 0 keeps all.
        seed: of that chance.
        met: rows that the file holds.
        notes: what a person should know about how the file was read, each with its remedy.
    """

    columns: list[str]
    header: bool = True
    values: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    most: int = 0
    seed: int = 0
    met: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)
    _below: int = 1 << 64
    _draws: list[int] = field(default_factory=list)
    _block: int = -1

    def add(self, line: int, values: dict[str, Any]) -> None:
        """Keep a row, unless there are too many and chance is against it: memory holds twice `most` rows at worst."""
        self.met += 1
        if self._below < 1 << 64 and self._draw(line) >= self._below:
            return
        self.lines.append(line)
        self.values.append(values)
        if self.most and len(self.values) >= 2 * self.most:
            self.thin()

    def thin(self) -> None:
        """Keep the `most` rows with the smallest draws, in their order; which they are depends on their lines and the seed alone."""
        if not self.most or len(self.values) <= self.most:
            return
        draws = mix(self.seed, "rows", np.asarray(self.lines))
        self._below = int(np.partition(draws, self.most)[self.most])
        indices = np.flatnonzero(draws < np.uint64(self._below)).tolist()
        self.lines = [self.lines[index] for index in indices]
        self.values = [self.values[index] for index in indices]

    def _draw(self, line: int) -> int:
        block, offset = divmod(line, 1 << 16)
        if block != self._block:  # a number at a time would take twenty times as long
            self._block = block
            self._draws = mix(self.seed, "rows", np.arange(block << 16, (block + 1) << 16)).tolist()
        return self._draws[offset]

    def records(self, path: str) -> list[Record]:
        """The rows as records."""
        return [Record(row=line, values=values, source=path) for line, values in zip(self.lines, self.values, strict=True)]


ROW_BYTES = 8 << 20
"""A row that holds more is set aside."""
HALF = re.compile("[\ud800-\udfff]")


def unfit_reason(values: dict[str, Any]) -> str:
    """Why no text can hold a row; empty where one can."""
    size = 0
    for value in values.values():
        if value is None or isinstance(value, int | float):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        size += len(text)
        half = None if text.isascii() else HALF.search(text)
        if half:
            code = ord(half[0])
            invalid = 0xDC80 <= code <= 0xDCFF  # what decoding makes of an invalid byte
            return f"the byte 0x{code - 0xDC00:02x} is not UTF-8" if invalid else "half of a character pair (a lone surrogate)"
        if "\0" in text or (text is not value and "\\u0000" in text):
            return "a NUL byte inside the text"
    return f"it holds {size / (1 << 20):.0f} MiB, more than the {ROW_BYTES >> 20} MiB a row may have" if size > ROW_BYTES else ""


def format_rows(kind: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Rows as the content of a file.

    Args:
        kind: csv, tsv or jsonl.
        columns: their order, where the format has one.
        rows: one mapping a row.

    Raises:
        DataError: the format cannot hold one of the cells.
    """
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    cells = [["" if row.get(name) is None else str(row[name]) for name in columns] for row in rows]
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(cells)
        return text.getvalue()
    bad = next((cell for row in cells for cell in row if "\t" in cell or "\n" in cell), None)
    if bad is not None:
        raise DataError(f"a tab-separated file cannot hold {bad[:40]!r}", "name it .csv or .jsonl")
    return "".join("\t".join(row) + "\n" for row in [list(columns), *cells])
