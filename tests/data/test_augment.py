"""Changed views: a pure function of seed, step and row; held-out rows stay as they are."""

from __future__ import annotations

from collections import Counter

import pytest

from luthier.core.errors import ExperimentError
from luthier.core.types import HELD_OUT
from luthier.data.augment import Augment
from luthier.training.steps import steps
from tests.data.test_malformed import sentence
from tests.training.test_steps import weights_after, work_for

TEXT = " ".join(sentence(number) for number in range(40))  # 280 words


def test_the_same_question_gives_the_same_view_and_another_step_another() -> None:
    augment = Augment(share=0.5, drop=0.1, swap=0.1, span=0.1, typos=0.1, case=0.1)
    assert augment.view(TEXT, 1, 2, 3) == augment.view(TEXT, 1, 2, 3)
    assert len({augment.view(TEXT, *key) for key in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3))}) == 4
    share = sum(augment.changes(1, step, row) for step in range(40) for row in range(50)) / 2000
    assert share == pytest.approx(0.5, abs=0.05)


def test_each_view_changes_what_it_says_in_its_share() -> None:
    none = dict.fromkeys(("drop", "swap", "span", "typos", "case"), 0.0)
    words = TEXT.split()

    def view(**rates: float) -> list[str]:
        return Augment(**{**none, **rates}).view(TEXT, 1, 2, 3).split()  # type: ignore[arg-type]

    assert view() == words
    dropped = view(drop=0.2)
    assert len(dropped) == pytest.approx(0.8 * len(words), rel=0.1)
    assert not Counter(dropped) - Counter(words)
    swapped = view(swap=0.2)
    assert swapped != words
    assert Counter(swapped) == Counter(words)
    cut = view(span=0.25)
    assert len(cut) == len(words) - len(words) // 4
    start = next((place for place, (one, two) in enumerate(zip(cut, words, strict=False)) if one != two), len(cut))
    assert cut[start:] == words[len(words) - len(cut) + start :]
    typed = view(typos=0.3)
    assert sum(one != two for one, two in zip(typed, words, strict=True)) == pytest.approx(0.3 * len(words), rel=0.35)
    assert all(abs(len(one) - len(two)) <= 1 for one, two in zip(typed, words, strict=True))
    cased = view(case=0.3)
    assert [word.lower() for word in cased] == [word.lower() for word in words]
    assert cased != words


def test_a_text_never_loses_all_its_words() -> None:
    for row in range(50):
        assert Augment(drop=0.99).view("two words", 1, 1, row).split()
    assert Augment(drop=0.99).view("one", 1, 1, 1) == "one"


def test_only_training_rows_are_changed_and_two_runs_agree_to_the_bit(bases, records) -> None:
    changes = {"augment": {"share": 1.0, "drop": 0.3}}
    work = work_for(bases, records, "classification", **changes)
    learned, held = (work.objective.collate(work.train, 1, step) for step in (0, HELD_OUT))
    assert learned.size < held.size == sum(example.size for example in work.train)
    assert learned.index.tolist() == held.index.tolist() == [example.index for example in work.train]
    assert learned.each["target"].tolist() == [example.target for example in work.train]
    tokens = [step.tokens for step in steps(work)]
    plain = [step.tokens for step in steps(work_for(bases, records, "classification"))]
    assert all(one < two for one, two in zip(tokens, plain, strict=True))
    one, two = (weights_after(work_for(bases, records, "classification", **changes), 3) for _ in range(2))
    assert all((one[name] == two[name]).all() for name in one)


def test_a_chat_model_is_not_taught_broken_answers(bases, chats) -> None:
    with pytest.raises(ExperimentError, match="broken answers"):
        work_for(bases, chats, "chat", augment={"share": 0.5})
