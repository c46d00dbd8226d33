"""Rows of other trainers, written anew: what each layout becomes, and what is no row of it."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.data.foreign_rows import Layout

ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, _, text in (each.partition(": ") for each in said)]


CASES: dict[str, tuple[Layout, dict[str, Any], dict[str, Any]]] = {
    "an instruction": (
        Layout("instruction", ALPACA),
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"messages": turns("user: add\n1 2", "assistant: 3")},
    ),
    "an instruction without input": (
        Layout("instruction", ALPACA),
        {"instruction": "hi", "input": "", "output": "hello", "system": None},
        {"messages": turns("user: hi", "assistant: hello")},
    ),
    "a system turn and earlier rounds": (
        Layout("instruction", ALPACA),
        {"instruction": "and 2?", "output": "4", "system": "count", "history": [["1?", "2"]]},
        {"messages": turns("system: count", "user: 1?", "assistant: 2", "user: and 2?", "assistant: 4")},
    ),
    "a system turn for all": (
        Layout("instruction", ALPACA, system="be kind"),
        {"instruction": "hi", "output": "hello"},
        {"messages": turns("system: be kind", "user: hi", "assistant: hello")},
    ),
    "sharegpt": (
        Layout("turns", {"messages": "conversations"}),
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"messages": turns("user: hi", "assistant: hello")},
    ),
    "turns with tags and roles of their own": (
        Layout("turns", {"messages": "talk"}, ("who", "what"), {"customer": "user", "agent": "assistant"}, "be kind"),
        {"talk": [{"who": "customer", "what": "hi"}, {"who": "agent", "what": "hello"}]},
        {"messages": turns("system: be kind", "user: hi", "assistant: hello")},
    ),
    "a system turn of its own stays": (
        Layout("turns", {"messages": "messages"}, ("role", "content"), system="be kind"),
        {"messages": turns("system: be brief", "user: hi", "assistant: hello")},
        {"messages": turns("system: be brief", "user: hi", "assistant: hello")},
    ),
    "a pair behind turns": (
        Layout("pair", {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}),
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "go"},
        },
        {"messages": turns("user: hi"), "chosen": "hello", "rejected": "go"},
    ),
    "a pair of texts": (
        Layout("pair", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system"}),
        {"prompt": "hi", "chosen": "hello", "rejected": [{"role": "assistant", "content": "go"}], "system": "be kind"},
        {"messages": turns("system: be kind", "user: hi"), "chosen": "hello", "rejected": "go"},
    ),
    "a text": (Layout("text", {"text": "content"}), {"content": "once upon a time"}, {"text": "once upon a time"}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_layout_becomes_what_readers_here_know(case: str) -> None:
    layout, values, wanted = CASES[case]
    assert layout.rewrite(values) == wanted


FAULTS: list[tuple[Layout, dict[str, Any], str]] = [
    (Layout("turns", {"messages": "messages"}), {"messages": "hi"}, "messages is not a list of turns"),
    (Layout("turns", {"messages": "messages"}), {"messages": ["hi"]}, "no turn"),
    (Layout("instruction", ALPACA), {"instruction": 3, "output": "x"}, "instruction holds int"),
    (Layout("instruction", ALPACA), {"instruction": "x", "output": ["y"]}, "output holds list"),
    (Layout("instruction", ALPACA), {"instruction": "x", "output": "y", "history": ["z"]}, "history is not a list of pairs"),
    (
        Layout("pair", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        {"prompt": "x", "chosen": "y"},
        "rejected is missing",
    ),
    (Layout("text", {"text": "text"}), {"text": {"a": 1}}, "text holds dict"),
]


@pytest.mark.parametrize("layout, values, why", FAULTS)
def test_what_is_no_row_of_a_layout_says_why(layout: Layout, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        layout.rewrite(values)
