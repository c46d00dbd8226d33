"""Rows as other trainers lay them out, written anew as conversations, pairs or texts that every reader here knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.data.chat import ROLES

Kind = Literal["instruction", "turns", "text", "pair"]


@dataclass(frozen=True)
class Layout:
    """How a data set of another trainer holds its rows.

    Args:
        kind: an instruction with its answer, a list of turns, a text, or a prompt with two answers.
        columns: what each column is called there: prompt, query, response, system, history; messages; text; chosen, rejected.
        tags: what a turn's keys are called: role, content.
        roles: what the roles are called there → user, assistant, system.
        system: what stands before conversations that bring no system turn; empty for nothing.
    """

    kind: Kind
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, str] = ("from", "value")
    roles: Mapping[str, str] = field(default_factory=dict)
    system: str = ""

    def rewrite(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A row as this project's readers know it: `text`; or `messages`, of a pair with `chosen` and `rejected`.

        Args:
            values: column → what stands there.

        Raises:
            ValueError: why the row cannot be read so.
        """
        if self.kind == "text":
            return {"text": self._text(values, "text")}
        messages = self._turns(values) if "messages" in self.columns else self._prompt_turns(values)
        if self.kind == "pair":
            return {
                "messages": self._with_system(messages, values),
                **{side: self._answer(values, side) for side in ("chosen", "rejected")},
            }
        if self.kind == "instruction":
            messages.append({"role": "assistant", "content": self._text(values, "response")})
        return {"messages": self._with_system(messages, values)}

    def _cell_of(self, values: Mapping[str, Any], name: str) -> Any:
        """What stands in the column that plays a part; None where there is no such column."""
        column = self.columns.get(name)
        return values.get(column) if column else None

    def _text(self, values: Mapping[str, Any], name: str) -> str:
        value = self._cell_of(values, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self.columns[name]} holds {type(value).__name__}, not a text")
        return value or ""

    def _prompt_turns(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The turns before the answer: earlier rounds, then instruction and input with a line break between them."""
        turns: list[dict[str, str]] = []
        for turn in self._cell_of(values, "history") or []:
            if not isinstance(turn, list | tuple) or len(turn) != 2:
                raise ValueError(f"{self.columns['history']} is not a list of pairs")
            turns += [{"role": role, "content": str(text)} for role, text in zip(("user", "assistant"), turn, strict=True)]
        prompt = "\n".join(part for part in (self._text(values, "prompt"), self._text(values, "query")) if part)
        return [*turns, {"role": "user", "content": prompt}]

    def _turns(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        turns = self._cell_of(values, "messages")
        if not isinstance(turns, list):
            raise ValueError(f"{self.columns['messages']} is not a list of turns")
        return [self._turn(turn) for turn in turns]

    def _turn(self, turn: Any) -> dict[str, str]:
        if not isinstance(turn, Mapping):
            raise ValueError(f"{self.columns.get('messages', 'a turn')} holds something that is no turn")
        fields = [next((str(turn[key]) for key in (tag, other) if turn.get(key) is not None), "")
                  for tag, other in zip(self.tags, ("role", "content"), strict=True)]  # fmt: skip
        role = self.roles.get(fields[0]) or ROLES.get(fields[0], fields[0])
        return {"role": role, "content": fields[1]}

    def _with_system(self, messages: list[dict[str, str]], values: Mapping[str, Any]) -> list[dict[str, str]]:
        system = self._text(values, "system") or self.system
        if not system or (messages and messages[0]["role"] == "system"):
            return messages
        return [{"role": "system", "content": system}, *messages]

    def _answer(self, values: Mapping[str, Any], side: str) -> str:
        """One of two answers: a text, a turn, or turns of which the last counts."""
        value = self._cell_of(values, side)
        value = value[-1] if isinstance(value, list) and value else value
        if isinstance(value, Mapping):
            return self._turn(value)["content"]
        if not isinstance(value, str):
            raise ValueError(f"{self.columns.get(side, side)} is missing")
        return value
