"""A row of one answer and whether it was good, however the columns hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.types import Message
from luthier.data.chat import check_turns, prompt_turns, turns_of
from luthier.data.infer import text_of
from luthier.data.pairs import answer_of
from luthier.data.rows import Rows

GOOD = ("true", "1", "+1", "yes", "good", "up", "thumbs up", "desirable", "like", "accepted", "👍")
BAD = ("false", "0", "-1", "no", "bad", "down", "thumbs down", "undesirable", "dislike", "rejected", "👎")
"""What a label may be, in any case."""
LABELS = ("label", "kto_tag", "desirable", "thumb", "thumbs", "vote")
ANSWERS = ("completion", "response", "answer", "output")
PROMPTS = (("prompt",), ("question",), ("instruction", "input"), ("instruction",))
CONVERSATIONS = ("messages", "conversations")
"""Names of the columns of the label, the answer, the prompt, and of both in one, as well-known data sets have them."""
TAG = "kto_tag"
"""A name that says by itself what its table is for."""


@dataclass(frozen=True)
class JudgedAnswer:
    """One answer and whether it was good.

    Args:
        prompt: the turns that wait for an answer.
        answer: what was said.
        good: whether it was good.
    """

    prompt: list[Message]
    answer: str
    good: bool

    @property
    def messages(self) -> list[Message]:
        """The conversation with the answer."""
        return conversation_with(self.prompt, self.answer)


def conversation_with(prompt: Sequence[Message], answer: str) -> list[Message]:
    """A prompt's turns and an answer to them."""
    return [*prompt, {"role": "assistant", "content": answer}]


def is_good(value: Any) -> bool | None:
    """What a label says; None where it says neither good nor bad.

    >>> is_good("Thumbs_Up"), is_good(0.0), is_good("neutral")
    (True, False, None)
    """
    text = " ".join(text_of(value).replace("_", " ").lower().split()).removesuffix(".0")
    return True if text in GOOD else False if text in BAD else None


def parse_judged_answer(values: Any, input: tuple[str, ...], target: str) -> JudgedAnswer:
    """A row as an answer and whether it was good.

    Args:
        values: the row's columns.
        input: the columns of the prompt and, last, that of the answer; or the one of a conversation that ends with the answer.
        target: the column of the label.

    Raises:
        ValueError: why nothing can be learned from the row.
    """
    *columns, column = input
    cell = values.get(column)
    if columns:
        prompt = prompt_turns(values, tuple(columns))
        if not any(str(turn["content"] or "").strip() for turn in prompt):
            raise ValueError(f"{' + '.join(columns)} says nothing")
        answer = answer_of(cell, column, prompt)
    else:
        turns = turns_of(cell, column)
        prompt, answer = turns[:-1], answer_of(turns, column, turns[:-1])
    good = is_good(values.get(target))
    if good is None:
        raise ValueError(f"{target} is {text_of(values.get(target))[:40]!r}, which says neither good nor bad")
    row = JudgedAnswer(prompt, answer, good)
    check_turns(row.messages)
    return row


def prompt_of(values: Any, input: tuple[str, ...]) -> list[Message]:
    """The turns of a row that wait for an answer, where the answer need not be there.

    Args:
        values: the row's columns.
        input: as in `parse_judged_answer`.
    """
    return prompt_turns(values, input[:-1] or input)


def find_judged(rows: Rows) -> tuple[tuple[str, ...], str] | None:
    """The columns of a table that can only be meant so: a prompt, an answer and a label of two values; or a conversation with a `kto_tag`."""
    columns = set(rows.columns)
    answer = next((name for name in ANSWERS if name in columns), None)
    label = next((name for name in LABELS if name in columns and tells_two(rows, name)), None)
    if label is not None and answer is not None and "prompt" in columns:
        return ("prompt", answer), label
    whole = find_conversations(rows)
    return ((whole,), TAG) if whole is not None and label == TAG else None


def find_conversations(rows: Rows) -> str | None:
    """The column that holds conversations, by its name."""
    return next((name for name in CONVERSATIONS if any(isinstance(row.get(name), list) for row in rows.values)), None)


def tells_two(rows: Rows, column: str) -> bool:
    """Whether a column says of rows that they are good and of others that they are bad, and nothing else."""
    return {is_good(row.get(column)) for row in rows.values if text_of(row.get(column)).strip()} == {True, False}


def say_one_kind(rows: Rows, read: tuple[str, ...]) -> str:
    """That a label of answers is not read, because it says the same of all of them; empty where there is none such.

    Args:
        rows: of the table.
        read: columns that are read or learned.
    """
    for name in (name for name in LABELS if name in rows.columns and name not in read):
        kinds = {is_good(row.get(name)) for row in rows.values if text_of(row.get(name)).strip()}
        if len(kinds) == 1 and None not in kinds:
            kind, other = ("good", "bad") if kinds == {True} else ("bad", "good")
            return f"{name!r} calls all answers {kind} and is not read: with {other} ones too, --task unpaired_preference would learn from both"
    return ""


def other_values(rows: Rows, column: str) -> list[str]:
    """What a column says beside good and bad, the most frequent first."""
    counts = Counter(text_of(row.get(column)).strip() for row in rows.values if is_good(row.get(column)) is None)
    return [value for value, _ in counts.most_common() if value]
