"""The run folder: the only thing that passes from training to everything else."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from luthier.core.errors import DiskFailed, DiskFull, RunError, Stopped
from luthier.core.finding import Finding


def as_json_value(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become the words "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): as_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    number: Any = value
    return number.item() if hasattr(number, "item") and getattr(number, "ndim", 1) == 0 else value


NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def from_json_value(value: Any) -> Any:
    """A value of numbers and names as it was before `plain`: the words "NaN", "Infinity" and "-Infinity" become numbers again."""
    if isinstance(value, dict):
        return {key: from_json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


RESUME = "then `luthier resume` the run: nothing already written is lost"
AGAIN = "then type the command again"
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)
"""What the operating system says where a place cannot be written to, whatever the disk."""


@contextlib.contextmanager
def name_disk_errors(what: str, then: str = RESUME) -> Iterator[None]:
    """Name a disk that is full or fails, and a place that may not be written to, for what it is.

    Args:
        what: is written.
        then: what to do once there is space: `AGAIN` where it is no part of a run.

    Raises:
        DiskFull: the disk, the quota or the file size limit is used up.
        DiskFailed: the disk reports a fault, or the place may not be written to.
    """
    try:
        yield
    except OSError as problem:
        error = disk_problem(problem.errno or 0, what, then)
        if error is None:
            raise
        raise error from problem


def disk_problem(code: int, what: str, then: str = RESUME) -> RunError | None:
    """What the operating system says of a disk, for a person; None where it is about something else.

    Args:
        code: its error number.
        what: was being written.
        then: what to do once there is space.
    """
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"no space left on the disk while writing {what}",
            f"free some space, {then}",
        )
    if code in (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return DiskFailed(
            f"the disk failed while writing {what}: {os.strerror(code)}",
            "look at the disk (its file system may have become read-only); "
            + ("copy the run folder to another if need be, then `luthier resume` it" if then == RESUME else f"choose another, {then}"),
        )
    if code in FORBIDDEN:
        return DiskFailed(
            f"{what} cannot be written: {os.strerror(code)}",
            "see that its folder is there and that you may write to it, or choose another place",
        )
    return None


def check_writable(path: Path) -> None:
    """See that a file can be written, before the work whose result it is to hold; its folder is made.

    Args:
        path: that a person named; an older file stays as it is.

    Raises:
        DiskFull, DiskFailed: it cannot.
    """
    with name_disk_errors(str(path), AGAIN):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent) as handle:
            handle.write(b" ")
            handle.flush()


def write_file(path: Path, content: bytes | str, then: str = RESUME) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never half of it.

    Args:
        path: of the file.
        content: of it.
        then: what to do once there is space, where there is none.

    Raises:
        DiskFull, DiskFailed: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with name_disk_errors(str(path), then):
        try:
            with aside.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            aside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; of a folder's, the names and hashes of all that lies in it."""
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        listing = "".join(f"{entry.relative_to(path)}\0{file_hash(entry)}\n" for entry in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Run:
    """A run folder, open for reading; `Run.lock` opens it for writing.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        verdict = self.verdict
        if verdict is None:
            return f"Run({str(self.folder)!r}, unfinished)"
        test = verdict["test"]
        baselines = "".join(f", {which} {verdict[which]['value']:.4f}" for which in ("base", "trivial") if verdict.get(which))
        ships = f", ships the {verdict['ships']}" if verdict.get("ships", "trained") != "trained" else ""
        return (
            f"Run({str(self.folder)!r}, {verdict['verdict']}{ships}: test {verdict['metric']} {test['value']:.4f} "
            f"[{test['low']:.4f}, {test['high']:.4f}]{baselines})"
        )

    def __fspath__(self) -> str:
        """The folder, so that a run can be given wherever its folder can."""
        return str(self.folder)

    @staticmethod
    def fresh_name() -> str:
        """A name that two runs started in the same second do not share."""
        return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    @classmethod
    def create(cls, folder: str | Path) -> Run:
        """Make a new, empty run folder.

        Raises:
            RunError: something is already there.
        """
        folder = Path(folder)
        if (folder / "experiment.yaml").exists():
            raise RunError(
                f"{folder} already holds a run",
                f"choose another --out, or go on with `luthier resume {folder}`",
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} exists and is not empty", "choose another --out")
        with name_disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run.

        Raises:
            RunError: there is none.
        """
        folder = Path(folder)
        if not (folder / "experiment.yaml").is_file():
            raise RunError(f"{folder} is not a run folder: it has no experiment.yaml", "give the folder that `luthier run` printed")
        return cls(folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[Run]:
        """Be the folder's one writer; the kernel frees the lock when the process ends, however it ends.

        Raises:
            RunError: another process is writing; the message names it.
        """
        with name_disk_errors(str(self.folder)):
            lock = (self.folder / ".lock").open("a+")
        with lock as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "another process"
                raise RunError(f"{self.folder} is in use by {owner}", "wait for it to end, or choose another --out") from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
            handle.flush()
            yield self

    @contextlib.contextmanager
    def name_folder_when_stopped(self) -> Iterator[None]:
        """Whoever stops the process meanwhile is told which folder to resume.

        Raises:
            Stopped: of this folder; also where it was a plain `KeyboardInterrupt`.
        """
        try:
            yield
        except KeyboardInterrupt as stop:
            number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
            at_once = stop.at_once if isinstance(stop, Stopped) else False
            resumable = (self.folder / "experiment.yaml").exists()
            raise Stopped(number, self.folder if resumable else None, at_once) from stop

    # reading

    def json(self, name: str) -> Any:
        """The content of a JSON file, or None where there is none.

        Raises:
            RunError: it is damaged.
        """
        path = self.folder / name
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            raise RunError(f"{path} is damaged: it is not JSON", "restore the file from a copy") from None

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The entries of a JSONL file; a torn last line (a crash while appending) is left out."""
        path = self.folder / name
        if not path.exists():
            return []
        entries = []
        rows = path.read_bytes().split(b"\n")
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            try:
                entries.append(json.loads(row))
            except ValueError:
                if number < len(rows):
                    raise RunError(f"{path}, line {number} is damaged", "restore the file from a copy") from None
        return entries

    @property
    def verdict(self) -> dict[str, Any] | None:
        """The verdict; None before it is reached."""
        return from_json_value(self.json("verdict.json"))

    @property
    def findings(self) -> list[Finding]:
        """What the analyses said."""
        return [Finding.model_validate(line) for line in self.lines("findings.jsonl")]

    def events_named(self, event: str) -> list[dict[str, Any]]:
        """The events of one name, in order."""
        return [line for line in self.lines("events.jsonl") if line["event"] == event]

    def how_to_finish(self, what: str = "finish it") -> str:
        """The remedy for a run that is not finished; one that was refused before it trained would be refused again.

        Args:
            what: that finishing it does, for a person.
        """
        no_go, short = self.events_named("no_go"), self.events_named("budget_too_short")
        if not (no_go or short) or self.events_named("forced"):
            return f"{what}: `luthier resume {self.folder}`"
        if no_go:
            reasons = no_go[-1]["reasons"]
            why = f"its small run refused it: {'; '.join(map(str, reasons)) if isinstance(reasons, list) else reasons}"
        else:
            why = f"its budget of {short[-1]['budget']:g}s was refused: the smallest that makes sense is {short[-1]['smallest']}"
        return f"{why}; mend that and start a new run, or insist: `luthier resume {self.folder} --force`"

    # writing

    def write_json(self, name: str, value: Any) -> None:
        """Write a whole JSON file at once."""
        write_file(self.folder / name, json.dumps(as_json_value(value), indent=2, ensure_ascii=False) + "\n")

    def append(self, name: str, *entries: dict[str, Any]) -> None:
        """Add lines to a JSONL file, after cutting off a torn last line."""
        if not entries:
            return
        path = self.folder / name
        text = "".join(json.dumps(as_json_value(entry), ensure_ascii=False) + "\n" for entry in entries)
        with name_disk_errors(str(path)), path.open("ab+") as handle:
            if handle.tell():
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    handle.seek(0)
                    handle.truncate(handle.read().rfind(b"\n") + 1)
            handle.write(text.encode())

    def event(self, event: str, **facts: Any) -> None:
        """Record that something happened; the wall clock is there to be read, never to be computed with."""
        self.append("events.jsonl", {"event": event, **facts, "at": f"{datetime.now():%Y-%m-%dT%H:%M:%S}"})

    def add_findings(self, *findings: Finding) -> None:
        """Record findings."""
        self.append("findings.jsonl", *[finding.model_dump() for finding in findings])

    def truncate(self, name: str, last_step: int) -> None:
        """Take back the lines of a JSONL file that come after a step (on resume)."""
        path = self.folder / name
        if path.exists():
            lines = [line for line in self.lines(name) if line.get("step", 0) <= last_step]
            write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


class Clock:
    """Seconds since it was made, from a clock that nobody can set."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    def __call__(self) -> float:
        """Seconds that have passed."""
        return time.monotonic() - self._start
