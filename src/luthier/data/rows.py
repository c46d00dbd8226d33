"""A file's rows as they were read, and those that could not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, nearest
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
    """

    columns: list[str]
    header: bool = True
    values: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, line: int, values: dict[str, Any]) -> None:
        """Keep a row."""
        self.lines.append(line)
        self.values.append(values)

    def records(self, path: str) -> list[Record]:
        """The rows as records."""
        return [Record(row=line, values=values, source=path) for line, values in zip(self.lines, self.values, strict=True)]


def read(path: Path, format: str | None = None, encoding: str = "utf-8", header: bool | None = None) -> Rows:
    """Read a file of rows.

    Args:
        path: the file.
        format: a name from `data.SOURCES`; None takes it from the file's ending.
        encoding: how its bytes are to be read; a byte order mark is honoured.
        header: whether line 1 names the columns; None looks at the values.

    Raises:
        DataError: the file is missing, empty, in another encoding, or not of its format.
    """
    from luthier.data import SOURCES

    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}", nearest(path.name, beside) if beside else "check the path")
    if not path.is_file():
        raise DataError(
            f"{path} is not a file", "give a .csv, .tsv, .json or .jsonl file, or a folder with train, validation and test files"
        )
    name = format or {
        ".csv": "csv",
        ".tsv": "tsv",
        ".txt": "tsv",
        ".tab": "tsv",
        ".json": "json",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
    }.get(path.suffix.lower())
    if name is None:
        raise DataError(
            f"{path}: the ending {path.suffix!r} names no format that is known", f"set data.format to one of {', '.join(SOURCES)}"
        )
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}", "check who may read it") from None
    if not raw.strip():
        raise DataError(f"{path} is empty", "give a file with at least 30 rows")
    return SOURCES[name](_decoded(raw, path, encoding), str(path), header)


def _decoded(raw: bytes, path: Path, encoding: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    try:
        return raw.decode(encoding)
    except LookupError:
        raise DataError(f"there is no encoding {encoding!r}", "set data.encoding to utf-8, latin-1, cp1252, utf-16, …") from None
    except UnicodeDecodeError as problem:
        line = raw[: problem.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}, byte {problem.start}: {raw[problem.start : problem.start + 1]!r} is not {encoding.removesuffix('-sig')}",
            "save the file as UTF-8, or name its encoding: --set data.encoding=cp1252",
        ) from None
