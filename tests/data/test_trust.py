"""What a person must be told of their rows before they believe a score: other class shares, rows that belong together, columns that nothing reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.data.check import CHECKS
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from tests.data.test_check import sheet
from tests.data.test_malformed import jsonl, rows, sentence, table


def dataset(tmp_path: Path, made: list[dict[str, Any]], **options: Any) -> Dataset:
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl(made))
    return load_dataset(Data(path=str(path), **options))


def say(found: Dataset, check: str) -> list[Finding]:
    return [one for one in found.findings if one.check == check]


def parts_with(train: int, validation: int, test: int, of: Callable[[str, int], str]) -> Any:
    """A sheet of given parts, each row's class a function of its part and number."""
    places = ["train"] * train + ["validation"] * validation + ["test"] * test
    numbers = [*range(train), *range(validation), *range(test)]
    return sheet(
        [(sentence(row), of(part, number)) for row, (part, number) in enumerate(zip(places, numbers, strict=True))],
        parts=lambda row: places[row],
    )


def test_given_parts_with_other_class_shares_are_a_finding_that_names_the_classes() -> None:
    """The shares of the class `oos` of CLINC150: 0.7 % of train, 3 % of validation, 18 % of test."""
    shares = {"train": 0.007, "validation": 0.032, "test": 0.182}
    sizes = {"train": 3000, "validation": 620, "test": 1100}
    rows = parts_with(*sizes.values(), lambda part, number: "oos" if number < shares[part] * sizes[part] else f"intent {number % 30}")
    (found,) = CHECKS["shares"](rows)
    assert found.severity == "warning"
    assert "validation and test rows have other class shares ('oos': 0.7% of train, 3.2% of validation, 18.3% of test)" in found.claim
    assert "a validation score will not predict the test score" in found.claim
    assert list(found.evidence["shares"]) == ["oos"]


def test_training_rows_with_other_class_shares_than_both_others_are_said_too() -> None:
    (found,) = CHECKS["shares"](parts_with(800, 400, 400, lambda part, number: "ab"[number % (2 if part == "train" else 5) == 0]))
    assert found.claim.startswith("training and validation rows have other class shares")


@pytest.mark.parametrize("classes", [2, 7, 60])
@pytest.mark.parametrize("seed", range(5))
def test_class_shares_that_differ_by_chance_alone_are_no_finding(classes: int, seed: int) -> None:
    draw = random.Random(100 * classes + seed)
    assert not CHECKS["shares"](parts_with(700, 60, 150, lambda part, number: str(int(classes * draw.random() ** 2))))


def test_our_own_split_is_never_said_to_have_other_shares() -> None:
    assert not CHECKS["shares"](sheet([(sentence(number), "ab"[number > 60]) for number in range(100)]))


def queries(count: int = 300) -> list[dict[str, Any]]:
    """Questions to data bases, as in Spider: two or three wordings of each query, a few queries a data base."""
    return [
        {"db_id": f"base_{number // 12}", "hardness": ("easy", "hard")[number % 2], "question": sentence(number),
         "answer": f"SELECT name FROM singers WHERE id = {number // 3}"} for number in range(count)
    ]  # fmt: skip


def test_answers_that_stand_in_several_rows_are_said_with_the_column_that_groups_them(tmp_path: Path) -> None:
    (found,) = say(dataset(tmp_path, queries()), "groups")
    assert "300 of 300 rows share their answer with another row (100 answers)" in found.claim
    assert "have the same 'db_id' (100% of them; 25 values, 12.0 rows each)" in found.claim
    assert found.remedy.endswith("--set data.group=db_id")
    grouped = dataset(tmp_path, queries(), group="db_id")
    assert not say(grouped, "groups")
    answers = {part: {record.values["answer"] for record in held} for part, held in grouped.records.items()}
    assert not answers["train"] & answers["test"]


def test_where_no_column_groups_them_the_answer_itself_is_proposed(tmp_path: Path) -> None:
    made = [{"question": row["question"], "answer": row["answer"], "when": f"{number % 40}"} for number, row in enumerate(queries())]
    (found,) = say(dataset(tmp_path, made), "groups")
    assert found.remedy.endswith("--set data.group=answer")


def test_a_family_that_keeps_equal_answers_in_one_part_is_not_told_to(tmp_path: Path) -> None:
    made = [{"en": sentence(number), "de": sentence(1000 + number // 3)} for number in range(300)]
    found = dataset(tmp_path, made)
    assert found.spec.task == "translation"
    assert not say(found, "groups")
    torn = dataset(tmp_path, [{"question": row["en"], "answer": row["de"]} for row in made])
    assert torn.spec.task == "chat"
    assert say(torn, "groups")


def test_what_needs_no_base_is_not_asked_to_be_english() -> None:
    spanish = [(f"no sabemos cuándo llega la próxima reunión número {number}", "ab"[number % 2]) for number in range(60)]
    assert [one.check for one in CHECKS["language"](sheet(spanish))] == ["language"]
    for task in ("translation", "causal_lm", "word2vec"):
        assert not CHECKS["language"](sheet(spanish, task=task))
    assert CHECKS["language"](sheet(spanish, task="masked_lm"))


def test_answers_that_differ_or_are_short_propose_no_group(tmp_path: Path) -> None:
    made = [{"db_id": f"b{number // 5}", "prompt": sentence(number), "completion": sentence(number + 500)} for number in range(90)]
    assert not say(dataset(tmp_path, made), "groups")
    made = [{"db_id": f"b{number // 5}", "prompt": sentence(number), "completion": str(number % 45)} for number in range(90)]
    assert not say(dataset(tmp_path, made), "groups")


def label(column: str, value: Callable[[int], Any], near: bool) -> list[dict[str, Any]]:
    """Rows with a class; every fourth repeats the one before it but for a word, where `near` is set."""
    return [
        {"text": sentence(number - 1) + " indeed" if near and number % 4 == 3 else sentence(number), "label": "ab"[number // 2 % 2], column: value(number)}
        for number in range(240)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "column, value, near, proposed",
    [
        ("patient_id", lambda number: f"p{number // 8}", True, True),
        ("author", lambda number: f"p{number // 8}", True, True),
        ("patient_id", lambda number: f"p{number // 8}", False, False),  # nothing shows that its rows are alike
        ("patient_id", lambda number: f"p{number % 30}", True, False),  # near-duplicates lie in several of them
        ("colour", lambda number: f"p{number // 8}", True, False),  # no name of an owner
        ("row_id", lambda number: str(number), True, False),  # one row each
        ("label_id", lambda number: number // 2 % 2, True, False),  # the class by another name
    ],
)
def test_a_group_is_proposed_for_classes_only_by_name_and_evidence(
    column: str, value: Any, near: bool, proposed: bool, tmp_path: Path
) -> None:
    found = say(dataset(tmp_path, label(column, value, near), target="label"), "groups")
    assert [one.remedy.endswith(f"--set data.group={column}") for one in found] == [True] * proposed


@pytest.mark.parametrize("names", [("premise", "hypothesis"), ("sentence1", "sentence2"), ("Question1", "Question2")])
def test_both_texts_of_a_well_known_pair_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    made = [{names[0]: sentence(number), names[1]: sentence(number + 200), "label": "abc"[number % 3]} for number in range(60)]
    found = dataset(tmp_path, made)
    assert found.spec.input == names
    assert f"{names[0]!r} and {names[1]!r} are a pair of texts: both are read" in found.reason
    assert not say(found, "columns.unread")


def test_a_text_column_that_is_not_read_is_named_with_the_command_that_reads_it(tmp_path: Path) -> None:
    made = [
        {
            "title": sentence(number),
            "body": f"{sentence(number + 200)} {sentence(number + 700)} and more",
            "label": "ab"[number % 2],
            "id": f"x{number}",
            "day": "2026-01-01",
        }
        for number in range(60)
    ]
    (found,) = say(dataset(tmp_path, made), "columns.unread")
    assert "the text column 'title' (mean" in found.claim
    assert "read both: --input title,body --target label" in found.remedy
    assert not say(dataset(tmp_path, made, input=("body",)), "columns.unread")  # it was asked for
    made = [{"question": sentence(number), "context": sentence(number + 200), "answer": sentence(number + 400)} for number in range(60)]
    (found,) = say(dataset(tmp_path, made), "columns.unread")
    assert found.remedy.endswith("--input question,context --target answer --task chat")
    assert dataset(tmp_path, made, input=("question", "context"), target="answer", task="chat").spec.input == ("question", "context")


def test_a_copy_of_the_text_is_not_named_as_unread(tmp_path: Path) -> None:
    made = [{**row, "clean": row["text"].upper() + "!"} for row in rows()]
    assert not say(dataset(tmp_path, made), "columns.unread")


def test_one_giant_cell_is_the_finding_and_not_a_wrong_one_about_language() -> None:
    english = [(f"this is what we have on the {sentence(number)} and it was for you", "ab"[number % 2]) for number in range(120)]
    rows = sheet([*english[:5], ("lorem ipsum dolor sit amet " * 40_000, "a"), *english[5:]])
    (found,) = [one for one in CHECKS["lengths"](rows) if one.check == "lengths.giant"]
    assert found.claim.startswith("rows.csv, line 6, holds 1,080,000 characters")
    assert [row["line"] for row in found.evidence["rows"]] == [6]
    assert not CHECKS["language"](rows)
    assert not [one for one in CHECKS["lengths"](sheet(english)) if one.check == "lengths.giant"]


def test_an_empty_label_column_says_so_and_no_other_takes_its_place(tmp_path: Path) -> None:
    made = [{"text": sentence(number), "label": "", "source": "xyz"[number % 3]} for number in range(60)]
    for options in ({}, {"target": "label"}):
        with pytest.raises(DataError, match=r"the column 'label' is empty in all 60 rows[\s\S]*source"):
            dataset(tmp_path, made, **options)
    some = [{**row, "label": "" if number % 3 else "ab"[number % 2]} for number, row in enumerate(rows(120))]
    (found,) = say(dataset(tmp_path, some), "rows")
    assert found.claim == "80 rows were set aside: 80 × there is no label ('label' is empty); the first is rows.jsonl, line 2"


def test_a_test_file_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(table([f"{sentence(number)},{'ab'[number % 2]}" for number in range(80)]))
    (tmp_path / "test.csv").write_text(table([f"{sentence(number)}," for number in range(100, 140)]))
    with pytest.raises(DataError, match=r"test\.csv: the column 'label' is empty in all 40 rows"):
        load_dataset(Data(path=str(tmp_path)))


def test_labels_that_read_like_empty_cells_are_named(tmp_path: Path) -> None:
    found = dataset(tmp_path, [{**row, "label": ("yes", "no", "nan")[number % 3]} for number, row in enumerate(rows(90))])
    (one,) = say(found, "spellings.missing")
    assert "'nan' (30 rows)" in one.claim
