"""Counts with their nouns."""

from __future__ import annotations

import pytest

from luthier.core.words import plural, with_article


@pytest.mark.parametrize(
    "number, noun, said",
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        (1201, "step", "1,201 steps"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (3, "entry", "3 entries"),
        (3, "day", "3 days"),
        (2, "sealed test row", "2 sealed test rows"),
    ],
)
def test_a_noun_agrees_with_its_count(number: int, noun: str, said: str) -> None:
    assert plural(number, noun) == said


def test_a_noun_has_the_article_that_is_spoken() -> None:
    assert (with_article("chat model"), with_article("autoencoder model")) == ("a chat model", "an autoencoder model")
