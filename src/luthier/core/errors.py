"""Every mistake a user can make: what was asked, what is known, and the remedy."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


class LuthierError(Exception):
    """Something a user can mend.

    Args:
        message: what is wrong, with the file and row where there is one.
        remedy: what to do about it, as an instruction.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class DataError(LuthierError):
    """The data cannot be used as it is."""


class NoRows(DataError):
    """A file holds nothing to read; what is to be given instead depends on what it was given for."""


class ExperimentError(LuthierError):
    """The experiment asks for something that does not exist or does not fit."""


class ModelError(LuthierError):
    """A base model cannot be found, read or trusted."""


class RunError(LuthierError):
    """A run folder cannot be used: it is taken, damaged, or does not match."""


class DiskFull(RunError):
    """There is no space left for what must be written."""


class DiskFailed(RunError):
    """The disk itself reports a fault, or a place may not be written to."""


class Diverged(LuthierError):
    """The loss stopped being a number."""

    exit_code = 1


class DoesNotFit(LuthierError):
    """A run asks for more memory than there is; found out before it was begun."""

    exit_code = 1


class OutOfMemory(LuthierError):
    """There is not enough memory for the smallest piece of work."""

    exit_code = 1


class NoGo(LuthierError):
    """The small run says that the large one would be wasted."""

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or another signal, asked the run to stop; what is needed to resume has been written.

    It is a `KeyboardInterrupt` and no `LuthierError`, so that code which catches errors and goes on does not swallow a Ctrl-C.

    Args:
        signal: the signal's number; the process exits with 128 + it.
        folder: of the run or the study, where there is one to resume.
        at_once: whether the stop was forced, so that nothing is waited for.
    """

    def __init__(self, signal: int, folder: Path | None = None, at_once: bool = False) -> None:
        super().__init__(signal)
        self.signal, self.folder, self.at_once = signal, folder, at_once

    def __str__(self) -> str:
        return f"stopped; go on with `luthier resume {shlex.quote(str(self.folder))}`" if self.folder else "stopped"


LISTED = 40
"""Names that are all listed in a message; of more only the nearest are."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what is known, the nearest first.

    >>> nearest("learning_rat", ["lr", "learning_rate"])
    "did you mean 'learning_rate'? Known: learning_rate, lr"
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    names = known if len(known) <= LISTED else difflib.get_close_matches(name, known, n=LISTED // 3, cutoff=0.0)
    listing = ", ".join(names) + (f" and {len(known) - len(names)} more" if len(names) < len(known) else "") if known else "nothing"
    return (f"did you mean {close[0]!r}? " if close else "") + f"Known: {listing}"
