"""What a prediction does not read of a row: told with the tokens that the text has and those that are read."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.core.types import Cut, Record
from luthier.families import family_of
from luthier.objectives.objective import surely_fits
from tests.conftest import small_tokenizer

ONE, TWO = ("text",), ("first", "second")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat=False)


def make_objective(tokenizer: Any, name: str, input: tuple[str, ...], target: str | None, **settings: Any) -> Any:
    return family_of(name).spec_class.model_validate({"kind": name, **settings}).open(tokenizer, input, target)  # pyright: ignore[reportAttributeAccessIssue]


def words(count: int) -> str:
    """A text of so many words, each of one token."""
    return " ".join(["phone"] * count)


SETTINGS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["no", "yes"]},
    "regression": {},
    "multi_label": {"labels": ["a", "b"]},
    "text_autoencoder": {},
    "embedding": {},
    "translation": {},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_row_that_is_read_whole_has_no_cut_and_one_more_token_is_one(tokenizer: Any, name: str) -> None:
    objective = make_objective(tokenizer, name, ONE, "label", max_length=32, **SETTINGS[name])
    marks = len(tokenizer(words(1))["input_ids"]) - 1
    records = [Record(1, {"text": words(count)}) for count in (1, 32 - marks, 33 - marks, 50)]
    assert objective.cuts(records) == [(), (), (Cut(ONE, 33, 32),), (Cut(ONE, 50 + marks, 32),)]
    assert objective.cuts([]) == [] and "max_length" in objective.remedy_for_cuts()


def test_two_texts_that_are_read_together_are_one_and_those_of_vectors_are_two(tokenizer: Any) -> None:
    record = Record(1, {"first": words(40), "second": words(50)})
    marks = len(tokenizer("phone", "phone")["input_ids"]) - 2
    together = make_objective(tokenizer, "classification", TWO, "label", max_length=32, **SETTINGS["classification"])
    assert together.cuts([record]) == [(Cut(TWO, 90 + marks, 32),)]
    assert "windows" not in together.remedy_for_cuts()  # which two texts are not read in
    alone = len(tokenizer("phone")["input_ids"]) - 1
    apart = make_objective(tokenizer, "embedding", TWO, None, max_length=32)
    assert apart.cuts([record]) == [(Cut(("first",), 40 + alone, 32), Cut(("second",), 50 + alone, 32))]


@pytest.mark.parametrize("name", ["classification", "token_labels"])
def test_windows_read_all_but_what_lies_behind_the_last(tokenizer: Any, name: str) -> None:
    settings = {"max_length": 16, "overlap": 4, "labels": ["no", "yes"]} | ({"long_rows": "windows"} if name == "classification" else {})
    marks = len(tokenizer(words(1))["input_ids"]) - 1
    records = [Record(1, {"text": words(60)})]
    assert make_objective(tokenizer, name, ONE, "label", most_windows=16, **settings).cuts(records) == [()]
    few = make_objective(tokenizer, name, ONE, "label", most_windows=2, **settings)
    around = tokenizer.num_special_tokens_to_add()
    read = 2 * (16 - around) - 4 + around
    assert few.cuts(records) == [(Cut(ONE, 60 + marks, read),)] and few.remedy_for_cuts() == "a larger objective.most_windows"


def test_a_language_model_goes_on_behind_the_end_of_a_text_that_is_longer_than_its_context(tokenizer: Any) -> None:
    objective = make_objective(tokenizer, "causal_lm", ONE, None, context=32)
    more = len(
        tokenizer(words(1), add_special_tokens=False)["input_ids"]
    )  # the token before a text, and what the first word has beside one
    records = [Record(1, {"text": words(32 - more)}), Record(2, {"text": words(33 - more)})]
    assert objective.cuts(records) == [(), (Cut(ONE, 33, 32),)]


@pytest.mark.parametrize("name", ["image_classification", "image_regression"])
def test_of_an_image_nothing_is_cut(name: str) -> None:
    settings = {"labels": ["no", "yes"]} if name == "image_classification" else {}
    objective = make_objective(None, name, ("image",), "label", **settings)
    assert objective.cuts([Record(1, {"image": "x" * 5000})]) == [()] and objective.remedy_for_cuts() == ""


def test_what_surely_fits_has_no_more_tokens(tokenizer: Any) -> None:
    for text in ("a.b,c!", "1234", "   ", "x" * 24):
        assert surely_fits(text, 32) and len(tokenizer(text)["input_ids"]) <= 32
    assert not surely_fits("ﷺ", 32) and not surely_fits("x" * 25, 32)
