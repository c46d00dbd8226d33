"""The one renderer: what is trained on is what is served, token for token."""

from __future__ import annotations

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
        turns = values.get(target)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{target} is not a list of turns")
        messages = [{"role": str(turn.get("role", turn.get("from"))), "content": turn.get("content", turn.get("value"))} for turn in turns]
        messages = [{**message, "role": ROLES.get(message["role"], message["role"])} for message in messages]
    else:
        asked = [str(values.get(name) or "") for name in input]
        messages = [
            {"role": "user", "content": "\n\n".join(part for part in asked if part)},
            {"role": "assistant", "content": values.get(target)},
        ]
    return checked(messages)


def checked(messages: list[Any]) -> list[Message]:
    """Messages whose roles alternate and whose turns say something.

    Raises:
        ValueError: which turn is wrong and why.
    """
    turns = [message for message in messages if message["role"] != "system"]
    if len(messages) - len(turns) > 1 or (len(messages) > len(turns) and messages[0]["role"] != "system"):
        raise ValueError("a system turn stands elsewhere than first")
    for number, message in enumerate(turns):
        wanted = "user" if number % 2 == 0 else "assistant"
        if message["role"] != wanted:
            raise ValueError(f"turn {number + 1} is from {message['role']!r} where {wanted!r} is expected")
    for number, message in enumerate(messages):
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"turn {number + 1} says nothing")
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's")
    return messages


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], str]:
    """A conversation that waits for the assistant, as tokens and as text.

    Earlier answers are cut off exactly where training cut them, so a second turn is served as it was trained.
    """
    tokens: list[int] = []
    text = ""
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            tokens, text = _answered(tokenizer, messages[: number + 1], tokens, text)
    rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokens + _ids(tokenizer, rendered[len(text) :]), rendered


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """A whole conversation with the tokens that are learned: each answer and the mark that ends it."""
    tokens: list[int] = []
    learned: list[bool] = []
    text = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked, _ = prompt(tokenizer, messages[:number])
        learned += [False] * (len(asked) - len(learned))
        tokens, text = _answered(tokenizer, messages[: number + 1], asked, "")
        learned += [True] * (len(tokens) - len(learned))
    return Rendered(tokens, learned, text)


def _answered(tokenizer: Tokenizer, messages: Sequence[Message], tokens: list[int], text: str) -> tuple[list[int], str]:
    """Add the last message, an answer, up to and with the mark that ends its turn."""
    asked, opening = prompt(tokenizer, messages[:-1])
    whole = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=False)
    answer = whole[len(opening) :].rstrip("\n") if whole.startswith(opening) else messages[-1]["content"]
    return asked + _ids(tokenizer, answer), opening + answer


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
