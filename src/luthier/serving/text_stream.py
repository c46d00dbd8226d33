"""Tokens become text while they are made: no half character leaves, and no stop string does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from luthier.serving.interface import Token

UNFINISHED = "\ufffd"
"""What decoders put in place of bytes that are no character (yet)."""
LONGEST_CHARACTER = 4
"""Bytes, and so tokens, that a character of UTF-8 has at most."""


@dataclass(frozen=True)
class Piece:
    """What became certain of an answer.

    Args:
        text: to be sent.
        tokens: that it came from, each with the place in the whole text where its own begins.
        stopped: whether a stop string ended the answer.
    """

    text: str
    tokens: list[tuple[Token, int]] = field(default_factory=list)
    stopped: bool = False


class TextStream:
    """Joins tokens to text.

    Args:
        decode: token ids → text.
        stops: strings at which the answer ends; they are not part of it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._begin = self._read = 0
        self._held = ""
        self._sent = 0
        self._pending: list[tuple[Token, int]] = []
        self.stopped = False

    def push(self, tokens: Sequence[Token]) -> Piece:
        """Add tokens, and take what is certain by now."""
        if self.stopped:
            return Piece("", [], True)
        for token in tokens:
            self._pending.append((token, self._sent + len(self._held)))
            self._ids.append(token.id)
            self._held += self._new_text(last=False)
            if self._cut_at_stop():
                return self._release(len(self._held))
        return self._release(len(self._held) - self._could_begin_stop())

    def finish(self) -> Piece:
        """What is left at the end."""
        if self.stopped:
            return Piece("", [], True)
        self._held += self._new_text(last=True)
        self._cut_at_stop()
        return self._release(len(self._held), last=True)

    def _new_text(self, last: bool) -> str:
        """The text of tokens that are not read yet; decoded behind some that are, for a token's text may depend on those before it."""
        before = self._decode(self._ids[self._begin : self._read])
        now = self._decode(self._ids[self._begin :])
        unfinished = now.endswith(UNFINISHED) and len(self._ids) - self._read < LONGEST_CHARACTER
        if len(now) <= len(before) or (unfinished and not last):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _cut_at_stop(self) -> bool:
        places = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if places:
            self._held, self.stopped = self._held[: min(places)], True
        return bool(places)

    def _could_begin_stop(self) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        most = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), most, -1):
                if self._held.endswith(stop[:length]):
                    most = length
                    break
        return most

    def _release(self, length: int, last: bool = False) -> Piece:
        text, self._held = self._held[:length], self._held[length:]
        self._sent += len(text)
        done = last or self.stopped
        ready = [(token, position) for token, position in self._pending if position < self._sent or (last and not self.stopped)]
        self._pending = [] if done else [(token, position) for token, position in self._pending if position >= self._sent]
        return Piece(text, ready, self.stopped)
