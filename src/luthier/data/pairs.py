"""A row of preferences as a prompt and two answers, however the columns hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.core.types import Message
from luthier.data.chat import check_turns, prompt_turns, turns_of

SIDES = ("chosen", "rejected")
"""The columns of the better and the worse answer, as everybody names them."""


@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt.

    Args:
        prompt: the turns that wait for an answer.
        answers: the better and the worse one.
    """

    prompt: list[Message]
    answers: tuple[str, str]

    def messages(self, side: int) -> list[Message]:
        """The conversation with one of its answers: 0 the better, 1 the worse."""
        return [*self.prompt, {"role": "assistant", "content": self.answers[side]}]


def pair_of(values: Any, input: tuple[str, ...]) -> Pair:
    """A row as a pair.

    An answer is a text, one turn, or a list of turns of which the last is the answer; turns before it have to be the prompt.

    Args:
        values: the row's columns.
        input: the columns that make the prompt; ("chosen",) where the answers' own turns hold it.

    Raises:
        ValueError: why the row is no pair that can be learned from.
    """
    prompt = prompt_turns(values, input)
    answers = [answer_of(values.get(column), column, prompt) for column in SIDES]
    if answers[0].strip() == answers[1].strip():
        raise ValueError("chosen and rejected are the same")
    pair = Pair(prompt, (answers[0], answers[1]))
    check_turns(pair.messages(0))
    return pair


def answer_of(held: Any, column: str, prompt: list[Message]) -> str:
    """A cell as an answer.

    Args:
        held: a text, one turn, or a list of turns of which the last is the answer; turns before it have to be the prompt.
        column: its name, for the message.
        prompt: the turns that wait for the answer.

    Raises:
        ValueError: it is none.
    """
    if isinstance(held, dict | list):
        turns = turns_of([held] if isinstance(held, dict) else held, column)
        if not turns or turns[-1]["role"] != "assistant":
            raise ValueError(f"the last turn of {column} is not the assistant's")
        if len(turns) > 1 and turns[:-1] != prompt:
            raise ValueError(f"{column} begins with other turns than the prompt")
        held = turns[-1]["content"]
    if not isinstance(held, str) or not held.strip():
        raise ValueError(f"{column} says nothing")
    return held
