"""Parquet and Arrow files, and data sets that the datasets library saved: read in a process of its own.

A damaged file can crash the native reader; only the child is lost then. It says each row as a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from luthier.core.errors import DataError, NoRows
from luthier.core.extras import require_extra
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rows
from luthier.data.sources.sandbox import LIMITS

SECONDS = 600
MEMORY = 8 << 30

READER = (
    LIMITS
    + """
import pyarrow as pa
pa.set_cpu_count(1)

def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)

def batches(path, kind):
    if kind == "parquet":
        import pyarrow.parquet as parquet
        file = parquet.ParquetFile(path)
        yield file.schema_arrow.names, None
        for batch in file.iter_batches(1024):
            yield None, batch
        return
    source = pa.OSFile(path)
    try:
        reader = pa.ipc.open_file(source)
        found = (reader.get_batch(number) for number in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        reader = pa.ipc.open_stream(source)
        found = iter(reader)
    yield reader.schema.names, None
    for batch in found:
        yield None, batch

def storage(batch):
    columns = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

for path in sys.argv[3:]:
    for names, batch in batches(path, sys.argv[2]):
        if names is not None:
            print("#" + json.dumps(names))  # no row begins so
            continue
        batch.validate(full=True)
        for row in storage(batch).to_pylist():
            print(json.dumps(plain(row)))
"""
)


def read_parquet(source: FileOfRows) -> Rows:
    """Read a Parquet file, or all of a folder in the order of their names; a row's number takes the place of its line."""
    files = sorted(source.path.glob("*.parquet")) if source.path.is_dir() else [source.path]
    if not files:
        raise DataError(f"the folder {source.path} holds no .parquet file", "give the file itself")
    return _rows(files, source, "parquet")


def read_arrow(source: FileOfRows) -> Rows:
    """Read an Arrow file or stream."""
    return _rows([source.path], source, "arrow")


def read_saved(source: FileOfRows) -> Rows:
    """Read a folder that the datasets library saved; a loading script in it is never run."""
    folder = source.path
    state = folder / "state.json"
    if not state.exists():
        parts = [entry.name for entry in sorted(folder.iterdir()) if (entry / "state.json").exists()]
        raise DataError(
            f"{folder} holds no state.json, so it is not a data set that was saved whole",
            f"give one of its parts: {', '.join(parts)}" if parts else "save it again with save_to_disk",
        )
    try:
        names = [str(entry["filename"]) for entry in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{state} cannot be read: {problem}", "save the data set again with save_to_disk") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{state} names the file {name!r}, which is not in the folder", "save the data set again with save_to_disk")
    return _rows([folder / name for name in names], source, "arrow")


def _rows(files: list[Path], source: FileOfRows, kind: str) -> Rows:
    path = source.path
    require_extra("pyarrow", f"{path}: reading {kind}", DataError)
    for file in files:
        if file.stat().st_size == 0:
            raise NoRows(f"{file} is empty", "give a file with at least 30 rows")
    command = [sys.executable, "-I", "-c", READER, str(MEMORY), kind, *(str(file.absolute()) for file in files)]
    rows, number = source.rows(), 0
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=quiet) as child:
        late = threading.Timer(SECONDS, child.kill)
        late.start()
        try:
            for line in child.stdout or ():
                if line.startswith(b"#"):
                    rows.columns = _require_same_columns(path, rows.columns, json.loads(line[1:]))
                elif line.endswith(b"\n"):  # the last one of a reader that was ended may be half a row
                    number += 1
                    rows.add(number, json.loads(line))
            code = child.wait()
            in_time = late.is_alive()
        finally:
            late.cancel()
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().split("\n")[-1]
    if not in_time:
        raise DataError(f"{path} was not read within {SECONDS} s", "give it in smaller parts")
    if code:
        how = last if code > 0 else f"the reader was ended by signal {-code}"
        raise DataError(f"{path} is not a sound {kind} file: {how[:300]}", "write it again; a part of it may be missing")
    if not rows.values:
        raise NoRows(f"{path} holds no rows", "give a file with at least 30 rows")
    return rows


def _require_same_columns(path: Path, before: list[str], names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a column name is there twice", "give each column a name of its own")
    if before and before != names:
        raise DataError(f"{path}: its files have different columns", "save the data set again")
    return names
