"""The rows that a bundle is asked about: from a text, from rows in memory, from a file or from standard input; each is checked before anything is predicted."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, ExperimentError, nearest
from luthier.core.types import Record
from luthier.data.archives import on_disk
from luthier.data.chat import check_turns, prompt_turns
from luthier.data.encodings import choose_encoding
from luthier.data.read_rows import read
from luthier.data.row_files import names_table
from luthier.data.rows import Rows, unfit_reason
from luthier.data.sources.frames import STDIN, describe_value, format_of, is_in_memory, read_frame, read_stdin
from luthier.data.spec import Data
from luthier.experiment import Changes, as_assignments
from luthier.pilot.stages.options import data_spec, parse_assignments

MEMORY = "the rows given"
READING = ("encoding", "format", "header", "sheet")
"""Fields of `data` that say how a file is read."""
TURNS = ("messages", "conversations")
"""Columns that hold the turns of a conversation; a text there is one turn."""


def parse_reading_options(set: Changes) -> Data:
    """How a file is to be read, as a person says it.

    Args:
        set: changes, of the fields in `READING` alone.

    Raises:
        ExperimentError: another field, or a value that does not fit.
    """
    typed = parse_assignments(as_assignments(set))
    for path in typed:
        if path.removeprefix("data.") not in READING:
            raise ExperimentError(
                f"predict sets how a file is read, not {path}", f"it takes {', '.join(f'data.{name}' for name in READING)}"
            )
    return data_spec("", set=[f"{path}={text}" for path, text in typed.items()])


def rows_to_predict(
    data: Any, columns: Sequence[str], chat: bool, how: Data, optional: Sequence[str] = ()
) -> tuple[list[Record], Path | None]:
    """Read and check what a bundle is asked about.

    Args:
        data: a text, several texts, a dict (one row), rows in memory, a file or folder, or "-" for standard input.
        columns: that the model reads.
        chat: whether it answers conversations.
        how: its encoding, format, header and sheet are those of the file.
        optional: columns of these that rows may lack.

    Returns:
        The rows, numbered by their line in the file or their position; and the file, where there is one (of a table in a zip file the zip file).

    Raises:
        DataError: a row that says nothing or something that is no text, a column that is missing, or data of another kind.
    """
    needed = [name for name in columns if name not in optional]
    path = None if is_in_memory(data) or str(data) == STDIN else _file(data)
    if path is not None:
        where, table = str(path), _read_file(path, needed, how)
    elif not is_in_memory(data) and str(data) == STDIN:
        where, table = "standard input", _read_piped(read_stdin(), needed, "standard input", how)
    else:
        where, table = MEMORY, _read_memory(data, needed)
    if not table.values:
        return [], path and on_disk(path)
    _refuse_missing(where, table, needed)
    records = table.records(where)
    _refuse_unfit(where, records, columns, chat)
    return records, path and on_disk(path)


def _file(data: str | os.PathLike[str]) -> Path | None:
    """The file that is meant; None where it is a text."""
    path = Path(data)
    if not isinstance(data, str):
        return path
    try:
        exists = bool(data) and on_disk(path).exists()
    except (OSError, ValueError):  # too long, or with a character that no file's name has
        return None
    named_so = names_table(path) or data.startswith(("./", "../", "/", "~/"))
    if not exists and " " not in data and "\n" not in data and named_so:
        beside = [entry.name for entry in path.parent.iterdir() if names_table(entry)] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}", nearest(path.name, beside) if beside else "check the path, or give a text as a list")
    return path if exists else None


def _read_file(path: Path, columns: Sequence[str], how: Data) -> Rows:
    if path.suffix.lower() == ".txt" and path.is_file() and how.format is None:
        return _read_piped(path.read_bytes(), columns, str(path), how)
    with _without_training_advice():
        table = read(path, how.format, how.encoding, how.header, sheet=how.sheet)
    _refuse_rejected(table, str(path))
    return table


def _read_piped(content: bytes, columns: Sequence[str], where: str, how: Data) -> Rows:
    """Rows in whatever format they are in, or one text a line."""
    content = _as_utf8(content, where, how.encoding)
    kind = how.format or format_of(content, columns)
    if kind == "lines":
        _one_column(columns, f"{where} holds one text a line")
        return _rows_of_texts(_lines(content, where), columns[0])
    with tempfile.TemporaryDirectory(prefix="luthier-") as scratch:
        path = Path(scratch) / f"data.{kind}"
        path.write_bytes(content)
        try:
            with _without_training_advice():
                table = read(path, kind, header=True if kind in ("csv", "tsv") else None)
        except DataError as problem:
            raise DataError(problem.message.replace(str(path), where), problem.remedy) from None
        _refuse_rejected(table, where)
        return table


def _as_utf8(content: bytes, where: str, encoding: str) -> bytes:
    """The bytes in UTF-8, where another encoding is named.

    Raises:
        DataError: there is no such encoding, or the bytes are not in it.
    """
    encoding = choose_encoding(content[:4096], Path(where), encoding)
    if encoding == "utf-8-sig":
        return content
    try:
        return content.decode(encoding).encode()
    except UnicodeError as problem:
        raise DataError(f"{where} is not {encoding}: {problem}", "name its encoding: --set data.encoding=cp1252") from None


def _lines(content: bytes, where: str) -> list[tuple[int, str]]:
    """The texts with their lines; empty lines are passed over."""
    lines = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{where}, line {number} is not UTF-8", "save the texts as UTF-8") from None
        if text.strip():
            lines.append((number, text))
    return lines


def _read_memory(data: Any, columns: Sequence[str]) -> Rows:
    if isinstance(data, str):
        data = [data]
    if isinstance(data, list | tuple) and not any(isinstance(item, Mapping) for item in data):
        return _of_texts(data, columns)
    rows = read_frame(data)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Rows(names)
    for number, row in enumerate(rows, 1):
        table.add(number, row)
    return _require_text(table)


def _of_texts(texts: Sequence[Any], columns: Sequence[str]) -> Rows:
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            what = "is missing (NaN)" if isinstance(text, float) and text != text else f"is {describe_value(text)}"
            raise DataError(f"row {number} {what}, not a text", "give texts, or one dict a row; leave rows without a text out")
    if texts:
        _one_column(columns, "a text is one column")
    return _require_text(_rows_of_texts(list(enumerate(texts, 1)), columns[0]))


def _rows_of_texts(texts: Sequence[tuple[int, str]], column: str) -> Rows:
    table = Rows([column])
    for number, text in texts:
        table.add(number, {column: [{"role": "user", "content": text}] if column in TURNS else text})
    return table


def _one_column(columns: Sequence[str], what: str) -> None:
    if len(columns) > 1:
        raise DataError(
            f"the model reads {len(columns)} columns ({', '.join(columns)}), and {what}",
            f"give a file with these columns, or rows such as {{{', '.join(f'{name!r}: …' for name in columns)}}}",
        )


def _require_text(table: Rows) -> Rows:
    """The rows, unless one holds what no text can."""
    for row, values in zip(table.lines, table.values, strict=True):
        reason = unfit_reason(values)
        if reason:
            raise DataError(f"{_place(MEMORY, row)}: {reason}", "mend the row: a prediction for every row is promised")
    return table


def _refuse_rejected(table: Rows, where: str) -> None:
    if table.rejected:
        first = table.rejected[0]
        raise DataError(
            f"{_place(where, first.line)}: {first.reason}{_more(len(table.rejected))}",
            "mend the row: a prediction for every row is promised",
        )


def _refuse_missing(where: str, table: Rows, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{where} {'have' if where == MEMORY else 'has'} no column {missing[0]!r}, which the model was trained to read",
            nearest(missing[0], table.columns),
        )


def _refuse_unfit(where: str, records: Sequence[Record], columns: Sequence[str], chat: bool) -> None:
    """Refuse rows that training would have set aside (see `data.usable`), the first of them by its number."""
    reasons = [(record.row, _why_not(record.values, columns, chat)) for record in records]
    unfit = [(row, reason) for row, reason in reasons if reason]
    if unfit:
        row, reason = unfit[0]
        raise DataError(f"{_place(where, row)}: {reason}{_more(len(unfit))}", "fill it in, or leave such rows out")


def _place(where: str, row: int) -> str:
    return f"row {row}" if where == MEMORY else f"{where}, line {row}"


def _more(count: int) -> str:
    return f" (and {count - 1:,} more)" if count > 1 else ""


def _why_not(values: Mapping[str, Any], columns: Sequence[str], chat: bool) -> str:
    """Why nothing can be predicted for a row; empty where something can."""
    if chat and any(isinstance(values.get(name), list) for name in columns):
        try:
            check_turns([*prompt_turns(values, tuple(columns)), {"role": "assistant", "content": "…"}])
        except ValueError as problem:
            return str(problem)
        return ""
    for name in columns:
        if isinstance(values.get(name), dict | list):
            return f"{name} holds {describe_value(values[name])}, not a text"
    cells = [values.get(name) for name in columns]
    if len(columns) == 1 and cells[0] is not None and not isinstance(cells[0], str):
        return f"{columns[0]} holds {describe_value(cells[0])}, not a text"
    return "" if any(str(value or "").strip() for value in cells) else f"there is no text in {' or '.join(columns)}"


@contextlib.contextmanager
def _without_training_advice() -> Iterator[None]:
    """A file to predict needs no 30 rows."""
    try:
        yield
    except DataError as problem:
        raise DataError(problem.message, "give at least one row" if "30 rows" in problem.remedy else problem.remedy) from None
