"""A file that holds rows: which format its ending names, and what it says as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from luthier.core.errors import DataError, NoRows
from luthier.data.archives import open_bytes
from luthier.data.encodings import choose_encoding, error_handling
from luthier.data.rows import Rows

ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".npz": "npz",
}
UNREAD = {
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers"), "open it in a spreadsheet program and save it as .xlsx, or as CSV (UTF-8)"),
    **dict.fromkeys((".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack it, and give the file or folder itself; .gz and .zip are read"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".dta", ".sav", ".rds", ".h5", ".db", ".sqlite", ".xml"), "save the table as CSV or Parquet"),
    **dict.fromkeys((".pdf", ".docx", ".doc", ".html", ".htm", ".md"), "put the documents into a folder, and give the folder: each becomes a row"),
}  # fmt: skip
"""Endings of files that are not read, with the remedy."""
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
BINARY = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"%PDF": "PDF", b"SQLite": "SQLite", b"\xd0\xcf\x11\xe0": "an old Office format"}
WEB_PAGE = "a web page", "download the file itself: a page may have come in its place, such as one to sign in"
NO_TABLE = {
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file that it stands for: git lfs pull"),
    b"<!doctype html": WEB_PAGE,
    b"<html": WEB_PAGE,
}
"""How text files begin that are no tables: what they are, and the remedy."""


@dataclass(frozen=True)
class FileOfRows:
    """A file that a source is asked to read.

    Args:
        path: the file or folder.
        encoding: how its bytes are to be read.
        header: whether line 1 names the columns; None looks at the values.
        most: rows that are kept of a file that holds more; 0 keeps all.
        seed: decides which.
        sheet: of a workbook, by its name or its number from 1; None takes the first that holds rows.
    """

    path: Path
    encoding: str = "utf-8"
    header: bool | None = None
    most: int = 0
    seed: int = 0
    sheet: str | None = None

    def rows(self, columns: Sequence[str] = (), header: bool = True) -> Rows:
        """An empty table that keeps as many rows as was asked for."""
        return Rows(list(columns), header, most=self.most, seed=self.seed)

    def text(self) -> str:
        """What the file says, whole.

        Raises:
            DataError: as `stream`.
        """
        with self.stream() as stream:
            return stream.read()

    def stream(self, newline: str | None = "") -> TextIO:
        """What the file says, a piece at a time; an invalid byte becomes a lone surrogate, so that its row can be found (see `sift`).

        Args:
            newline: what ends a line, as in `open`.

        Raises:
            DataError: it is empty, compressed, binary, or in another encoding.
        """
        path = self.path
        try:
            with open_bytes(path) as handle:
                start = handle.read(4096)
                blank = not start.strip() and all(not piece.strip() for piece in iter(lambda: handle.read(1 << 20), b""))
        except OSError as problem:
            raise DataError(f"{path} cannot be read: {problem.strerror}", "check who may read it") from None
        if blank:
            raise NoRows(f"{path} is empty", "give a file with at least 30 rows")
        for mark, kind in PACKED.items():
            if start.startswith(mark):
                raise DataError(f"{path} is compressed ({kind})", _proper_name(path, kind))
        for mark, kind in BINARY.items():
            if start.startswith(mark):
                raise DataError(f"{path} is {kind}, not text", "give it its own ending (.parquet, .arrow), or save it as CSV")
        for mark, (kind, remedy) in NO_TABLE.items():
            if start.removeprefix(b"\xef\xbb\xbf").lstrip()[: len(mark)].lower() == mark:
                raise DataError(f"{path} is {kind}, not a table", remedy)
        encoding = choose_encoding(start, path, self.encoding)
        errors = error_handling(path, encoding)
        return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors=errors, newline=newline)


def format_of(path: Path) -> str | None:
    """The format that a file's ending names, also where `.gz` follows it; None where it names none."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return ENDINGS.get(plain.suffix.lower())


def plain_stem(path: Path) -> str:
    """A file's name without its endings: `train` of train.csv.gz."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def names_table(path: Path) -> bool:
    """Whether a name is that of a file of rows, by its ending: those that are read, those in a compressed file, and those that are refused with a remedy."""
    return format_of(path) is not None or path.suffix.lower() in (".gz", ".zip", *UNREAD)


def _proper_name(path: Path, kind: str) -> str:
    """What to do with a compressed file that bears the name of another."""
    if kind == "gzip":
        return f"name it {path.name}.gz, or unpack it"
    if kind != "zip":
        return "unpack it first"
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            workbook = "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "unpack it first"
    return f"it is an Excel workbook: name it {path.stem}.xlsx" if workbook else f"name it {path.stem}.zip, or unpack it"
