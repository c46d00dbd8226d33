"""An index over many runs: a cache in SQLite that the folders can rebuild, so that thousands of runs are listed at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from luthier.core.errors import RunError
from luthier.core.run_entry import WATCHED, RunEntry, is_run, is_running, read_entry, seconds_spent
from luthier.core.study import Study

FILE = ".luthier-index.sqlite"
FORMAT = 3
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
        return [_as_it_is_now(read_entry(place)[0]) for place in folders]
    with _open_index(folder) as (index, known):
        found: list[RunEntry] = []
        news: list[tuple[str, str, str, str]] = []
        for place in folders:
            name = place.relative_to(folder).as_posix()
            entry = _known_entry(place, name, *known[name]) if name in known else None
            if entry is None:
                before = {file: _stamp(place / file) for file in WATCHED}
                entry, watched = read_entry(place)
                stamps = {file: _stamp(place / file) for file in watched}
                if stamps.items() >= before.items():  # else a file was written meanwhile: it is read again the next time
                    record = (name, json.dumps(stamps), json.dumps(entry.as_dict() | {"winner": _below(entry.winner, place)}))
                    news.append((*record, _hash(*record)))
            found.append(_as_it_is_now(entry))
        gone = [(name,) for name in known.keys() - {place.relative_to(folder).as_posix() for place in folders}]
        if news or gone:
            with contextlib.suppress(
                sqlite3.Error
            ):  # a cache: a disk that is full, or another process that writes, changes nothing that is shown
                index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", news)
                index.executemany("DELETE FROM runs WHERE path = ?", gone)
                index.commit()
    return found


def find_runs(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The folders of runs and studies below a folder, by name; what lies within a run is not searched, of a study given itself its trials are found.

    Args:
        folder: that is searched.
        depth: folders within folders.
    """
    if is_run(folder):
        if (folder / "ledger.jsonl").is_file() and (folder / "trials").is_dir():
            return sorted({*find_runs(folder / "trials", 1), *_find_winner(folder)}) or [folder]
        return [folder]
    found: list[Path] = []
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
    for name in below:
        place = folder / name
        if is_run(place):
            found.append(place)
        elif depth > 1:
            found += find_runs(place, depth - 1)
    return found


def _stamp(file: Path) -> list[int] | None:
    """What tells that a file has changed: when it was written, and its size; None where it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size]


def _find_winner(study: Path) -> list[Path]:
    """The run that a study has chosen: a trial, or one of the ends that lie within a trial."""
    try:
        winner = Study(study).winner
    except (RunError, OSError, ValueError, KeyError, TypeError):
        return []  # the ledger is damaged; the line of the study says so
    return [winner.folder] if winner is not None and is_run(winner.folder) else []


def _below(winner: str, place: Path) -> str:
    """The run that was chosen, as the index has it: from its study's folder, which another process may see at another path."""
    return Path(winner).relative_to(place).as_posix() if winner else ""


def _hash(name: str, watched: str, entry: str) -> str:
    """What tells that a record is as it was written."""
    return hashlib.sha256("\0".join((name, watched, entry)).encode()).hexdigest()


def _known_entry(place: Path, name: str, watched: str, entry: str, sha256: str) -> RunEntry | None:
    """The entry as the index has it; None where a file has changed since, or the record itself."""
    try:
        if _hash(name, watched, entry) != sha256:
            return None
        stamps, values = json.loads(watched), json.loads(entry)
        if set(values) != FIELDS or any(_stamp(place / file) != stamp for file, stamp in stamps.items()):
            return None
        return RunEntry(**values | {"folder": str(place), "winner": values["winner"] and str(place / values["winner"])})
    except (ValueError, TypeError, AttributeError):
        return None


def _as_it_is_now(entry: RunEntry) -> RunEntry:
    """An entry with what no file's change tells: whether a process is at work on it, and how long so far."""
    if entry.state in ("finished", "damaged"):
        return entry
    place = Path(entry.folder)
    return replace(entry, state="running" if is_running(place) else entry.state, seconds=seconds_spent(place))


Known = dict[str, tuple[str, str, str]]
"""A run's path below the folder → its files' stamps, its entry, and the hash of the record."""


@contextlib.contextmanager
def _open_index(folder: Path) -> Iterator[tuple[sqlite3.Connection, Known]]:
    """The index of a folder and what it knows, made anew where it is damaged or of another format; in memory where the folder cannot be written to."""
    opened = _read_index(folder / FILE)
    if opened is None:
        for name in (FILE, f"{FILE}-journal"):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        opened = _read_index(folder / FILE)
    index, known = opened or (sqlite3.connect(":memory:"), {})
    try:
        if opened is None:
            _prepare(index)
        yield index, known
    finally:
        index.close()


def _read_index(file: Path) -> tuple[sqlite3.Connection, Known] | None:
    """The index with all that it knows; None where it cannot be read to its end."""
    index = None
    try:
        index = sqlite3.connect(file, timeout=5)
        _prepare(index)
        return index, {str(path): tuple(record) for path, *record in index.execute("SELECT path, watched, entry, sha256 FROM runs")}
    except sqlite3.Error:
        if index is not None:
            index.close()
        return None


def _prepare(index: sqlite3.Connection) -> None:
    if index.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        index.execute("DROP TABLE IF EXISTS runs")
        index.execute("CREATE TABLE runs (path TEXT PRIMARY KEY, watched TEXT NOT NULL, entry TEXT NOT NULL, sha256 TEXT NOT NULL)")
        index.execute(f"PRAGMA user_version = {FORMAT}")
        index.commit()
