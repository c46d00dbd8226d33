"""What is typed, pasted or piped into a chat becomes the turns that were meant."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.app.chat_turns import read_text, split_piped_turns
from luthier.core.errors import DataError

TOLD = """
import sys
from luthier.app.chat_turns import read_turns
for turn in read_turns(None, False):
    print("TURN", repr(turn), flush=True)
print("END", flush=True)
"""


@pytest.mark.parametrize(
    "text, each_line, turns",
    [
        ("one\n\ntwo\nthree\n", False, ["one\n\ntwo\nthree"]),
        ("one\n\ntwo\r\n", True, ["one", "two"]),
        ('first\n"""\nline one\n\n  line two\n"""\n\nlast\n', False, ["first", "line one\n\n  line two", "last"]),
        ('first\n"""\nline one\nline two\n"""\nlast\n', True, ["first", "line one\nline two", "last"]),
        ('"""\n"""\nonly\n', False, ["only"]),
        ('say """ twice', False, ['say """ twice']),
        ("", False, []),
    ],
)
def test_a_pipe_is_one_turn_unless_it_is_fenced_or_read_line_by_line(text: str, each_line: bool, turns: list[str]) -> None:
    assert list(split_piped_turns(text, each_line)) == turns


def test_a_turn_that_was_never_closed_is_refused() -> None:
    turns = split_piped_turns('before\n"""\nhalf a turn\n', False)
    assert next(turns) == "before"
    with pytest.raises(DataError, match="never closed"):
        next(turns)


def test_a_file_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n")
    for name, message in (("none.txt", "cannot be read"), ("empty.txt", "says nothing"), ("latin.txt", "byte 3")):
        with pytest.raises(DataError, match=message):
            read_text(tmp_path / name)
    assert read_text(tmp_path / "good.txt") == "one\ntwo"


def type_in(pieces: list[bytes]) -> str:
    """What a chat in a terminal makes of what is typed; each piece waits for the prompt before it."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", TOLD], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    shown = b""

    def until(mark: bytes, start: int) -> None:
        nonlocal shown
        limit = time.monotonic() + 60
        while mark not in shown[start:] and time.monotonic() < limit:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                return

    place = 0
    for piece in pieces:
        until(b"you: ", place)
        time.sleep(0.1)  # the terminal is set up behind its prompt
        place = len(shown)
        os.write(master, piece)
    until(b"END", place)
    process.wait(60)
    os.close(master)
    return shown.decode(errors="replace")


def test_lines_typed_in_a_terminal_are_turns_and_an_empty_one_ends_the_chat() -> None:
    shown = type_in([b"hello there\r", b"and again\r", b"\r"])
    assert [line for line in shown.splitlines() if line.startswith("TURN")] == ["TURN 'hello there'", "TURN 'and again'"]
    assert "END" in shown


def test_a_fenced_turn_in_a_terminal_may_hold_empty_lines() -> None:
    shown = type_in([b'"""\r', b"line one\r", b"\r", b"line two\r", b'"""\r', b"\r"])
    assert "TURN 'line one\\n\\nline two'" in shown
    assert shown.count("TURN") == 1


def test_a_text_of_several_lines_pasted_into_a_terminal_that_marks_pastes_is_one_turn() -> None:
    shown = type_in([b"\x1b[200~first line\rsecond line\r\rlast line\x1b[201~\r", b"\r"])
    assert "TURN 'first line\\nsecond line\\n\\nlast line'" in shown
    assert shown.count("TURN") == 1


def test_lines_that_arrive_at_once_in_a_terminal_that_marks_nothing_are_one_turn() -> None:
    shown = type_in([b"first line\rsecond line\rthird line\r", b"\r"])
    assert "TURN 'first line\\nsecond line\\nthird line'" in shown
    assert shown.count("TURN") == 1
