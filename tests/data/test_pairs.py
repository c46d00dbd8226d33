"""Pairs in every layout that people's files have."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.data.pairs import pair_of

USER, GOOD, BAD = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "no"}
PLAIN: dict[str, Any] = {"prompt": "hi", "chosen": "hello", "rejected": "no"}
LAYOUTS = {
    "texts": (PLAIN, ("prompt",)),
    "TRL, turns": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, ("prompt",)),
    "TRL, whole conversations": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, ("chosen",)),
    "UltraFeedback, a text before whole conversations": ({"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, ("prompt",)),
    "LLaMA-Factory, sharegpt": (
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        ("conversations",),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_pair(layout: str) -> None:
    found = pair_of(*LAYOUTS[layout])
    assert (found.prompt, found.answers) == ([USER], ("hello", "no"))
    assert found.messages(1) == [USER, BAD]


def test_several_columns_are_one_prompt_and_a_system_turn_stays() -> None:
    assert (
        pair_of({"instruction": "do", "input": "this", "chosen": "a", "rejected": "b"}, ("instruction", "input")).prompt[0]["content"]
        == "do\n\nthis"
    )
    system = {"from": "system", "value": "be kind"}
    values = {
        "conversations": [system, {"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    assert [turn["role"] for turn in pair_of(values, ("conversations",)).prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejected": "hello "}, "chosen and rejected are the same"),
        ({"chosen": "  "}, "chosen says nothing"),
        ({"rejected": None}, "rejected says nothing"),
        ({"prompt": ""}, "turn 1 says nothing"),
        ({"chosen": [USER]}, "the last turn of chosen is not the assistant's"),
        ({"chosen": [{"role": "user", "content": "bye"}, GOOD]}, "chosen begins with other turns than the prompt"),
        ({"rejected": ["no"]}, "rejected is not a list of turns"),
        ({"chosen": 3}, "chosen says nothing"),
    ],
)
def test_what_is_no_pair_is_told_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pair_of({**PLAIN, **changes}, ("prompt",))
