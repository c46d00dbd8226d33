"""What the model store takes on the disk: sizes, what was left over, and how a base is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from luthier.core import hub
from luthier.core.errors import ModelError, nearest

SCRATCH = re.compile(r"\.(?P<name>.+)-[a-z0-9_]{8}")
"""The name of a folder in which a base is fetched, or removed: hidden, and ended by what `tempfile` draws."""
NOTE = "store.json"
"""The file that marks a folder as one that Luthier has put into its store."""


@dataclass(frozen=True)
class Entry:
    """A folder of the store.

    Args:
        name: of the folder; of a base, its name.
        folder: its path.
        kind: base, or leftover.
        bytes: it takes.
        about: what it is.
        removable: whether Luthier wrote it and is not writing it now.
    """

    name: str
    folder: Path
    kind: str
    bytes: int
    about: str
    removable: bool


@contextlib.contextmanager
def name_unreadable_files() -> Iterator[None]:
    """Name a store, or a base in it, that this user may not read.

    Raises:
        ModelError: it is so; the message says which file.
    """
    try:
        yield
    except PermissionError as problem:
        if problem.filename is None:
            raise
        raise ModelError(
            f"{problem.filename} may not be read: {problem.strerror}",
            "ask whoever owns it for the right to read it, or keep bases in a folder of your own: export LUTHIER_HOME=FOLDER",
        ) from None


@name_unreadable_files()
def folder_size(folder: Path) -> int:
    """The bytes of all files below a folder; links are not followed, and a file with two names counts once."""
    total, counted = 0, set[tuple[int, int]]()
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a fetch that ends meanwhile
                status = (Path(directory) / name).lstat()
                if (status.st_dev, status.st_ino) not in counted:
                    counted.add((status.st_dev, status.st_ino))
                    total += status.st_size
    return total


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder while it is written to; the kernel frees the lock when the process ends, however it ends.

    Args:
        folder: to lock.

    Yields:
        Whether the lock was free.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


@name_unreadable_files()
def list_entries(store: Path, known: Container[str] = ()) -> list[Entry]:
    """What lies in the store: bases first, then what was left over.

    Args:
        store: the folder of the store.
        known: the names of the bases.
    """
    entries = [_describe(folder, known) for folder in sorted(store.iterdir()) if folder.is_dir()] if store.is_dir() else []
    return sorted(entries, key=lambda entry: (entry.kind, entry.name))


def _describe(folder: Path, known: Container[str]) -> Entry:
    kind, about, removable = "leftover", "not written by Luthier", False
    if (folder / NOTE).is_file() and not folder.is_symlink():
        kind, removable = "base", True
        about = "a base" if folder.name in known else "a base that this version does not know by name"
    elif (match := SCRATCH.fullmatch(folder.name)) and not folder.is_symlink():
        with lock_folder(folder) as free:
            about = f"left over: fetching or removing {match['name']} was stopped" if free else f"{match['name']} is being fetched"
        removable = free
    return Entry(folder.name, folder, kind, folder_size(folder), about, removable)


def find_entry(store: Path, name: str) -> Entry:
    """Find what is to be removed from the store.

    Args:
        store: the folder of the store.
        name: of a base that was fetched, or of what was left over.

    Raises:
        ModelError: there is no such folder in the store, Luthier did not write it, or it is being fetched.
    """
    entries = list_entries(store)
    match = next((entry for entry in entries if entry.name == name), None)  # never joined to a path: ".." and "/" lead nowhere
    if match is None:
        raise ModelError(f"there is no base {name!r} in the store ({store})", _how_else(name, entries))
    if not match.removable:
        remedy = (
            "wait until it is fetched" if "being fetched" in match.about else "look at it, and remove it yourself if you do not need it"
        )
        raise ModelError(f"{match.folder} is not removed: {match.about}", remedy)
    return match


def remove_entry(store: Path, name: str) -> int:
    """Remove a base, or what was left over, from the store; nothing outside of the store is touched.

    It is renamed before its files go, so that nobody finds half a base under its name.

    Args:
        store: the folder of the store.
        name: of a base that was fetched, or of what was left over.

    Returns:
        How many bytes became free.

    Raises:
        ModelError: there is no such folder in the store, Luthier did not write it, it is being fetched, or it cannot be removed.
    """
    entry = find_entry(store, name)
    try:
        aside = Path(tempfile.mkdtemp(dir=store, prefix=f".{name.strip('.')}-"))
        entry.folder.rename(aside / "removed")
        shutil.rmtree(aside)
    except OSError as problem:
        raise ModelError(
            f"{entry.folder} cannot be removed: {problem.strerror}", "look who owns it, and whether the disk can be written to"
        ) from None
    return entry.bytes


def _how_else(name: str, entries: Iterable[Entry]) -> str:
    if hub.NAME.fullmatch(name):
        return f"a model of the hub lies in the hub's own cache, which other programs share: hf cache rm model/{name}"
    if Path(name).expanduser().exists():
        return "only what Luthier has fetched itself is removed: `luthier models disk` lists it"
    return nearest(name, [entry.name for entry in entries if entry.removable])
