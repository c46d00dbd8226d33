"""Read the turns of a chat: one line, several lines, a file, or a pipe."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from luthier.core.errors import DataError

FENCE = '"""'
"""A line that is this opens a turn of several lines, and the next one closes it."""
HINT = f"Enter sends a line; {FENCE} on a line of its own begins and ends a turn of several lines; an empty line or Ctrl-D ends the chat."
PASTE_SECONDS = 0.05
"""Nobody types a line so soon behind another: it belongs to the same pasted text."""


def read_turns(file: Path | None, each_line: bool) -> Iterator[str]:
    """The turns of a chat, one after another.

    Args:
        file: whose content is the first turn; where the terminal is not one, it is the only turn.
        each_line: where standard input is a pipe, each of its lines is a turn.

    Raises:
        DataError: the file cannot be read, or a turn of several lines never ends.
    """
    terminal = sys.stdin.isatty()
    if file is not None:
        yield read_text(file)
    if terminal:
        print(HINT, file=sys.stderr)
        yield from join_fenced(read_typed_lines(), ends_at_empty=True)
    elif file is None:
        yield from split_piped_turns(sys.stdin.read(), each_line)


def read_text(file: Path) -> str:
    """The content of a text file.

    Raises:
        DataError: it is not there, not UTF-8, or empty.
    """
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}", "check the path") from None
    except UnicodeDecodeError as problem:
        raise DataError(f"{file}, byte {problem.start}: it is not UTF-8", "save it as UTF-8") from None
    if not text:
        raise DataError(f"{file} says nothing", "give a file with a text")
    return text


def split_piped_turns(text: str, each_line: bool) -> Iterator[str]:
    """The turns of a pipe: all of it is one, unless it holds fenced turns or each line outside of them is to be one.

    Args:
        text: all of standard input.
        each_line: each line is a turn, also where nothing is fenced.

    Raises:
        DataError: a fenced turn never ends.
    """
    lines = text.splitlines()
    if each_line or any(line.strip() == FENCE for line in lines):
        yield from join_fenced(lines, ends_at_empty=False)
    elif text.strip():
        yield text.strip()


def join_fenced(lines: Iterable[str], ends_at_empty: bool) -> Iterator[str]:
    """Lines as turns: what stands between two fences is one turn, any other line is one.

    Args:
        lines: without their ends; one may hold several, where they were pasted.
        ends_at_empty: an empty line ends the chat; else it is passed over.

    Raises:
        DataError: the last fence was not closed.
    """
    fenced: list[str] | None = None
    for line in lines:
        if line.strip() == FENCE:
            turn = "\n".join(fenced or ()).strip("\n")
            if fenced is not None and turn.strip():
                yield turn
            fenced = [] if fenced is None else None
        elif fenced is not None:
            fenced.append(line)
        elif line.strip():
            yield line.strip()
        elif ends_at_empty:
            return
    if fenced is not None:
        raise DataError(f"a turn that began with {FENCE} was never closed, so it was not sent", f"end it with {FENCE} on a line of its own")


def read_typed_lines() -> Iterator[str]:
    """Lines from the terminal; several that were pasted at once come as one."""
    _tell_pastes_apart()
    while True:
        try:
            line = input("you: ")
            while line.strip() and line.strip() != FENCE and _more_waits():
                line += "\n" + input()
        except EOFError:
            return
        yield from _without_fences(line)


def _without_fences(line: str) -> list[str]:
    """What was pasted, whole; where it holds fences, line by line."""
    lines = line.split("\n")
    return lines if any(part.strip() == FENCE for part in lines) else [line]


def _tell_pastes_apart() -> None:
    """Let the terminal mark what is pasted, where it can: line editing then takes it as one line with line ends in it."""
    with contextlib.suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def _more_waits() -> bool:
    """Whether another line is there already."""
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])
    return False
