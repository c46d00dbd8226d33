"""Files of predictions: the rows as they were given, and new columns beside them, in the format that the ending names."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.extras import require_extra
from luthier.core.run import AGAIN, check_writable, write_file
from luthier.data.sources.frames import json_lines

PREFIX = "predicted_"
"""Of every new column, whatever the model does."""
Row = Mapping[str, Any]


def prepare_output(path: Path, rows: Sequence[Row], *, chat: bool, source: Path | None, bundle: Path) -> None:
    """Refuse what cannot be written, before anything is predicted; make the folder it goes to.

    Args:
        path: where the predictions go.
        rows: that they are for.
        chat: whether the predictions are answers, which may hold line ends.
        source: the file or folder of the rows, where there is one.
        bundle: the bundle's folder.

    Raises:
        DataError: an ending that names no format, a format that cannot hold the rows, or a file that must not be written over.
        DiskFull, DiskFailed: nothing can be written there.
    """
    ending = path.suffix.lower()
    if ending not in WRITERS:
        raise DataError(f"predictions cannot be written as {ending or 'a file without ending'}: {path}", f"name it {_endings()}")
    _refuse_overwriting(path, source, bundle)
    if ending == ".parquet":
        require_extra("pyarrow", f"{path}: writing Parquet", DataError, "name it .csv or .jsonl")
    if ending == ".tsv" and chat:
        raise DataError(f"{path}: answers may hold line ends, which a tab-separated file cannot", "name it .csv or .jsonl")
    WRITERS[ending](path, columns_of(rows), rows)  # whether the format can hold them
    check_writable(path)


def _refuse_overwriting(path: Path, source: Path | None, bundle: Path) -> None:
    """Refuse the rows' own file, the bundle's folder, what a run has written, and folders."""
    resolved = path.resolve()
    if path.is_dir():
        raise DataError(f"{path} is a folder", f"name a file in it: {path / 'predictions.csv'}")
    if source is not None and (_is_same_file(path, source) or (source.is_dir() and source.resolve() in resolved.parents)):
        raise DataError(f"{path} is where the rows come from: they would be overwritten", "choose another --out")
    if bundle.resolve() in resolved.parents:
        raise DataError(f"{path} lies in the bundle, which holds only what was shipped", "choose an --out outside of it")
    if path.exists() and any((folder / "experiment.yaml").exists() for folder in resolved.parents):
        raise DataError(f"{path} is a file in the folder of a run: it is not overwritten", "choose another name")


def _is_same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return one.resolve() == other.resolve()


def write_predictions(path: Path, rows: Sequence[Row], predicted: Sequence[Row]) -> dict[str, str]:
    """Write the rows with their predictions, at once.

    Args:
        path: checked by `prepare_output`.
        rows: as they were given.
        predicted: for each of them what was predicted, by name.

    Returns:
        The column of each of the names; no column of the rows is taken for one.
    """
    names = name_columns(columns_of(rows), columns_of(predicted))
    joined = [{**row, **{names[name]: value for name, value in new.items()}} for row, new in zip(rows, predicted, strict=True)]
    columns = [*columns_of(rows), *names.values()]
    write_file(path, WRITERS[path.suffix.lower()](path, columns, joined), AGAIN)
    return names


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Every column that a row has, in the order in which they come first."""
    return list(dict.fromkeys(name for row in rows for name in row))


def name_columns(taken: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """The columns of the predictions; where one is taken, all of them get the same number at their end.

    >>> name_columns(["text", "predicted_label"], ["label", "confidence"])
    {'label': 'predicted_label_2', 'confidence': 'predicted_confidence_2'}
    """
    number = 1
    while True:
        names = {name: f"{PREFIX}{name}" + (f"_{number}" if number > 1 else "") for name in wanted}
        if not set(names.values()) & set(taken):
            return names
        number += 1


def _commas(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(_cell(row.get(name))) for name in columns] for row in rows)
    return table.getvalue().encode()


def _tabs(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    lines = [list(columns), *([_harmless(_cell(row.get(name))) for name in columns] for row in rows)]
    bad = next((cell for line in lines for cell in line if any(mark in cell for mark in "\t\n\r")), None)
    if bad is not None:
        raise DataError(f"{path}: a tab-separated file cannot hold {bad[:40]!r}", "name it .csv or .jsonl")
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def _lines(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    return json_lines(_fill_columns(columns, rows)).encode()


def _array(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    return (json.dumps(_fill_columns(columns, rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parquet(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    arrays = []
    for name in columns:
        try:
            arrays.append(pyarrow.array([row.get(name) for row in rows]))
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            raise DataError(f"{path}: the column {name!r} holds values of different kinds", "name it .jsonl") from None
    out = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays, names=list(columns)), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[Path, Sequence[str], Sequence[Row]], bytes]] = {
    ".csv": _commas, ".tsv": _tabs, ".jsonl": _lines, ".json": _array, ".parquet": _parquet,
}  # fmt: skip
"""Ending → the content of a file that holds these columns of these rows."""


def _endings() -> str:
    *most, last = WRITERS
    return f"{', '.join(most)} or {last}"


def _fill_columns(columns: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{name: row.get(name) for name in columns} for row in rows]


def _cell(value: Any) -> str:
    """A value as text: nothing where it is missing, JSON where it is more than a text or a number."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | dict | list) else str(value)


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet will not run as a formula (CWE-1236)."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
