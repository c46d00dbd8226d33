"""What is trained on is what is served."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from luthier.data.chat import check_turns, conversation, prompt, render
from luthier.models.pretrained import PLAIN, load_tokenizer
from luthier.models.store import inspect

TURNS = [
    {"role": "user", "content": "how was it?"},
    {"role": "assistant", "content": "great"},
    {"role": "user", "content": "and the film?"},
    {"role": "assistant", "content": "\n dull"},
]


def test_every_served_prompt_is_the_beginning_of_what_was_trained(bases) -> None:
    tokenizer = load_tokenizer(bases("llama"))
    whole = render(tokenizer, TURNS)
    for count in (1, 3):
        asked, _ = prompt(tokenizer, TURNS[:count])
        assert whole.tokens[: len(asked)] == asked
        assert whole.learned[len(asked)]
        assert not whole.learned[len(asked) - 1]


def test_each_answer_is_learned_with_the_mark_that_ends_it_and_nothing_else(bases) -> None:
    tokenizer = load_tokenizer(bases("llama"))
    whole = render(tokenizer, TURNS)
    said, runs = [], []
    for token, learned in zip(whole.tokens, whole.learned, strict=True):
        if learned:
            said.append(token)
        elif said:
            runs.append(tokenizer.decode(said))
            said = []
    runs.append(tokenizer.decode(said))
    assert runs == ["great<|im_end|>", "\n dull<|im_end|>"]


def test_the_rendered_text_is_the_templates_own(bases) -> None:
    tokenizer = load_tokenizer(bases("llama"))
    whole = render(tokenizer, TURNS)
    expected = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert tokenizer.decode(whole.tokens) == expected.rstrip("\n")
    assert whole.text == expected.rstrip("\n")


def make_bare(bases, folder: Path) -> Any:
    """The tokenizer of a decoder that brings no chat template."""
    base = Path(shutil.copytree(bases("llama").folder, folder / "bare"))
    (base / "chat_template.jinja").unlink()
    return load_tokenizer(inspect(base, "bare"))


def test_a_decoder_without_a_template_gets_the_plain_one_and_learns_the_same_of_it(bases, tmp_path: Path) -> None:
    tokenizer = make_bare(bases, tmp_path)
    whole = render(tokenizer, TURNS)
    answer, second = "Assistant: great<|im_end|>", "Assistant: \n dull<|im_end|>"
    assert whole.text == f"<|im_start|>User: how was it?\n{answer}\nUser: and the film?\n{second}"
    said = "".join(tokenizer.decode([token]) for token, learned in zip(whole.tokens, whole.learned, strict=True) if learned)
    assert said.replace(" ", "") == "great<|im_end|>\ndull<|im_end|>"
    for count in (1, 3):
        asked, text = prompt(tokenizer, TURNS[:count])
        assert whole.tokens[: len(asked)] == asked
        assert text.endswith("Assistant:")


def test_the_plain_template_goes_with_the_tokenizer(bases, tmp_path: Path) -> None:
    make_bare(bases, tmp_path).save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == PLAIN


@pytest.mark.parametrize(
    "messages, reason",
    [
        ([{"role": "user", "content": "a"}], "last turn is not the assistant's"),
        ([{"role": "assistant", "content": "a"}], "turn 1 is from 'assistant'"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], "turn 2 says nothing"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "assistant", "content": "c"}], "system turn"),
        ([], "last turn"),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_says_why(messages, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_turns(messages)


def test_sharegpt_and_alpaca_rows_become_the_same_messages() -> None:
    shared = conversation(
        {"conversations": [{"from": "human", "value": "a\n\nb"}, {"from": "gpt", "value": "c"}]}, ("conversations",), "conversations"
    )
    alpaca = conversation({"instruction": "a", "input": "b", "output": "c"}, ("instruction", "input"), "output")
    assert shared == alpaca
