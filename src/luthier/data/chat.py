"""Render conversations with the chat template: one renderer for training and serving, so that both see the same tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core.types import Message

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class Tokenizer(Protocol):
    """What the renderer needs of a tokenizer."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Messages as text."""
        ...

    def __call__(self, text: str, **options: Any) -> Any:
        """Text as tokens."""
        ...


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it.

    Args:
        tokens: ids.
        learned: whether each token is one that the assistant has to produce.
        text: the same as characters.
    """

    tokens: list[int]
    learned: list[bool]
    text: str


def conversation(values: Any, input: tuple[str, ...], target: str) -> list[Message]:
    """A row as messages.

    Args:
        values: the row's columns.
        input: the columns that make the user's turn, joined by an empty line; or the one that holds messages.
        target: the column of the answer; the same as `input` where it holds messages.

    Raises:
        ValueError: why the row is not a conversation that can be learned from.
    """
    if input == (target,):
        messages: list[Any] = turns_of(values.get(target), target)
    else:
        messages = [*prompt_turns(values, input), {"role": "assistant", "content": values.get(target)}]
    return check_turns(messages)


def prompt_turns(values: Any, input: tuple[str, ...]) -> list[Message]:
    """A row as the turns that wait for an answer: what prediction reads of it.

    Args:
        values: the row's columns.
        input: the columns that make the user's turn, joined by an empty line; or the one that holds messages.

    Raises:
        ValueError: a list that does not hold turns.
    """
    if len(input) == 1 and isinstance(values.get(input[0]), list):
        turns = turns_of(values[input[0]], input[0])
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        return turns
    texts = [str(values.get(name) or "") for name in input]
    return [{"role": "user", "content": "\n\n".join(text for text in texts if text)}]


def turns_of(held: Any, column: str) -> list[Any]:
    """A cell that holds a list of turns as messages, whichever names its keys and roles have.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(held, list) or not all(isinstance(turn, dict) for turn in held):
        raise ValueError(f"{column} is not a list of turns")
    turns = [{"role": str(turn.get("role", turn.get("from"))), "content": turn.get("content", turn.get("value"))} for turn in held]
    return [{**turn, "role": ROLES.get(turn["role"], turn["role"])} for turn in turns]


def check_turns(messages: list[Any]) -> list[Message]:
    """Messages whose roles alternate and whose turns say something.

    Raises:
        ValueError: which turn is wrong and why.
    """
    turns = [message for message in messages if message["role"] != "system"]
    if len(messages) - len(turns) > 1 or (len(messages) > len(turns) and messages[0]["role"] != "system"):
        raise ValueError("a system turn stands elsewhere than first")
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise ValueError(f"turn {index + 1} is from {message['role']!r} where {expected!r} is expected")
    for index, message in enumerate(messages):
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"turn {index + 1} says nothing")
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's")
    return messages


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], str]:
    """A conversation that waits for the assistant, as tokens and as text.

    Earlier answers are cut off exactly where training cut them, so a second turn is served as it was trained.
    """
    guarded, foreign = _guard_turns(tokenizer, messages)
    tokens, text = _prompt(tokenizer, guarded, foreign)
    return tokens, _restore_turns(text, foreign)


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """A whole conversation with the tokens that are learned: each answer and the mark that ends it.

    Control tokens that somebody wrote into a turn are encoded as the characters they are.
    """
    guarded, foreign = _guard_turns(tokenizer, messages)
    tokens: list[int] = []
    learned: list[bool] = []
    text = ""
    for index, message in enumerate(guarded):
        if message["role"] != "assistant":
            continue
        prompt_ids, _ = _prompt(tokenizer, guarded[:index], foreign)
        learned += [False] * (len(prompt_ids) - len(learned))
        tokens, text = _render_answered(tokenizer, guarded[: index + 1], foreign)
        learned += [True] * (len(tokens) - len(learned))
    return Rendered(tokens, learned, _restore_turns(text, foreign))


def _prompt(tokenizer: Tokenizer, messages: Sequence[Message], foreign: Sequence[str]) -> tuple[list[int], str]:
    tokens: list[int] = []
    text = ""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            tokens, text = _render_answered(tokenizer, messages[: index + 1], foreign)
    rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokens + _ids(tokenizer, rendered[len(text) :], foreign), rendered


def _render_answered(tokenizer: Tokenizer, messages: Sequence[Message], foreign: Sequence[str]) -> tuple[list[int], str]:
    """The conversation up to its last message, an answer, and with the mark that ends its turn."""
    prompt_ids, opening = _prompt(tokenizer, messages[:-1], foreign)
    whole = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=False)
    answer = whole[len(opening) :].rstrip("\n") if whole.startswith(opening) else messages[-1]["content"]
    return prompt_ids + _ids(tokenizer, answer, foreign), opening + answer


STAND_IN = re.compile("\ue0fe(\\d+)\ue0ff")


def _guard_turns(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """The messages, with a stand-in for each turn that holds a control token or a stand-in; and those turns."""
    marks = tuple(getattr(tokenizer, "all_special_tokens", ()))
    guarded, foreign = [], []
    for message in messages:
        content = message["content"]
        if any(mark in content for mark in marks) or STAND_IN.search(content):
            guarded.append({**message, "content": f"\ue0fe{len(foreign)}\ue0ff"})
            foreign.append(content)
        else:
            guarded.append(message)
    return guarded, foreign


def _restore_turns(text: str, foreign: Sequence[str]) -> str:
    return STAND_IN.sub(lambda match: foreign[int(match[1])], text) if foreign else text


def _ids(tokenizer: Tokenizer, text: str, foreign: Sequence[str]) -> list[int]:
    if not text:
        return []
    if not foreign:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens: list[int] = []
    for index, piece in enumerate(STAND_IN.split(text)):
        if index % 2:
            tokens += tokenizer(foreign[int(piece)], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        elif piece:
            tokens += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return tokens
