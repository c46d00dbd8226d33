"""An index over many runs: a cache in SQLite that the folders can rebuild, so that thousands of runs are listed at once."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from luthier.core.run_entry import WATCHED, RunEntry, is_run, is_running, read_entry, seconds_spent

FILE = ".luthier-index.sqlite"
FORMAT = 1
"""Of the index: another one is made anew."""
DEPTH = 4
"""Folders within folders that are searched for runs."""
FIELDS = {field.name for field in fields(RunEntry)}


def list_entries(folder: Path) -> list[RunEntry]:
    """Every run and study below a folder, those that are damaged or at work included; what has not changed comes from the index.

    Args:
        folder: that is searched. Of a study its trials are listed, of a run itself.

    Returns:
        The entries, by their folders' names.
    """
    folders = find_runs(folder)
    if is_run(folder):  # nothing is written into a run's folder
        return [_as_it_is_now(read_entry(subfolder)[0]) for subfolder in folders]
    with _open_index(folder) as index:
        known = {str(path): (watched, entry) for path, watched, entry in index.execute("SELECT path, watched, entry FROM runs")}
        entries: list[RunEntry] = []
        news: list[tuple[str, str, str]] = []
        for subfolder in folders:
            name = subfolder.relative_to(folder).as_posix()
            entry = _known_entry(subfolder, *known[name]) if name in known else None
            if entry is None:
                before = {file: _stamp(subfolder / file) for file in WATCHED}
                entry, watched = read_entry(subfolder)
                stamps = {file: _stamp(subfolder / file) for file in watched}
                if stamps.items() >= before.items():  # else a file was written meanwhile: it is read again the next time
                    news.append((name, json.dumps(stamps), json.dumps(entry.as_dict())))
            entries.append(_as_it_is_now(replace(entry, folder=str(subfolder))))
        gone = [(name,) for name in known.keys() - {subfolder.relative_to(folder).as_posix() for subfolder in folders}]
        if news or gone:
            with contextlib.suppress(
                sqlite3.Error
            ):  # a cache: a disk that is full, or another process that writes, changes nothing that is shown
                index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", news)
                index.executemany("DELETE FROM runs WHERE path = ?", gone)
                index.commit()
    return entries


def find_runs(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The folders of runs and studies below a folder, by name; what lies within a run is not searched, of a study given itself its trials are found.

    Args:
        folder: that is searched.
        depth: folders within folders.
    """
    if is_run(folder):
        if (folder / "ledger.jsonl").is_file() and (folder / "trials").is_dir():
            return find_runs(folder / "trials", 1) or [folder]
        return [folder]
    runs: list[Path] = []
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
    for name in below:
        subfolder = folder / name
        if is_run(subfolder):
            runs.append(subfolder)
        elif depth > 1:
            runs += find_runs(subfolder, depth - 1)
    return runs


def _stamp(file: Path) -> list[int] | None:
    """What tells that a file has changed: when it was written, and its size; None where it is not there."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size]


def _known_entry(folder: Path, watched: str, entry: str) -> RunEntry | None:
    """The entry as the index has it; None where a file has changed since, or the index says nothing that can be read."""
    try:
        stamps, values = json.loads(watched), json.loads(entry)
        if set(values) != FIELDS or any(_stamp(folder / file) != stamp for file, stamp in stamps.items()):
            return None
        return RunEntry(**values)
    except (ValueError, TypeError, AttributeError):
        return None


def _as_it_is_now(entry: RunEntry) -> RunEntry:
    """An entry with what no file's change tells: whether a process is at work on it, and how long so far."""
    if entry.state in ("finished", "damaged"):
        return entry
    folder = Path(entry.folder)
    return replace(entry, state="running" if is_running(folder) else entry.state, seconds=seconds_spent(folder))


@contextlib.contextmanager
def _open_index(folder: Path) -> Iterator[sqlite3.Connection]:
    """The index of a folder, made anew where it is damaged or of another format; in memory where the folder cannot be written to."""
    index = _connect(folder / FILE)
    if index is None:
        for name in (FILE, f"{FILE}-journal"):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        index = _connect(folder / FILE)
    if index is None:
        index = sqlite3.connect(":memory:")
        _prepare(index)
    try:
        yield index
    finally:
        index.close()


def _connect(file: Path) -> sqlite3.Connection | None:
    index = None
    try:
        index = sqlite3.connect(file, timeout=5)
        _prepare(index)
        index.execute("SELECT path, watched, entry FROM runs LIMIT 1").fetchone()
        return index
    except sqlite3.Error:
        if index is not None:
            index.close()
        return None


def _prepare(index: sqlite3.Connection) -> None:
    if index.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        index.execute("DROP TABLE IF EXISTS runs")
        index.execute("CREATE TABLE runs (path TEXT PRIMARY KEY, watched TEXT NOT NULL, entry TEXT NOT NULL)")
        index.execute(f"PRAGMA user_version = {FORMAT}")
        index.commit()
