"""Each check speaks up for what it is meant for, names the rows, and is silent otherwise. One row of the table a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from luthier.core.finding import Finding
from luthier.core.types import Record
from luthier.data.check import CHECKS
from luthier.data.check.balance import smallest_difference
from luthier.data.check.labels import (
    QUIET,
    estimate_noise,
    find_suspects,
    label_doubts,
    out_of_fold,
    out_of_fold_twice,
    wrong_label_probability,
)
from luthier.data.check.numbers import find_far
from luthier.data.check.personal import find_personal_data, iban, luhn
from luthier.data.check.sheet import Sheet
from luthier.families import family_of
from tests.data.test_malformed import sentence


def sheet(
    rows: list[tuple[str, str]] | None = None, task: str = "classification", parts: Callable[[int], str] | None = None, **more: Any
) -> Sheet:
    rows = rows or [(sentence(number), "ab"[number % 2]) for number in range(80)]
    places = [parts(number) if parts else ("train", "train", "train", "validation", "test")[number % 5] for number in range(len(rows))]
    return Sheet(
        [Record(number + 1, {}, f"{places[number]}.csv" if parts else "rows.csv") for number in range(len(rows))], places, parts is not None, family_of(task).kind,
        [text for text, _ in rows], [label for _, label in rows], **more,
    )  # fmt: skip


def clean() -> list[tuple[str, str]]:
    return [(sentence(number), "ab"[number % 2]) for number in range(80)]


def words(texts: Any) -> np.ndarray:
    """A model that only knows whether a text is about stones or about markets."""
    return np.array([[1.0, 0.0] if "stone" in text else [0.0, 1.0] for text in texts]) + np.linspace(0, 0.01, len(texts))[:, None]


def unit(texts: Any) -> np.ndarray:
    rows = words(texts)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TOPICS = [
    (("stone " if number % 2 else "market ") + sentence(number).replace("stone", "").replace("market", ""), "ab"[number % 2])
    for number in range(200)
]
WRONG = [(text, {"a": "b", "b": "a"}[label] if number in (10, 61, 122) else label) for number, (text, label) in enumerate(TOPICS)]
CASES: list[tuple[str, str, Sheet, list[int], list[int]]] = [
    # check, the finding that must speak, the sheet, the rows it must name (numbers from 0), the rows that --fix drops
    ("lengths", "lengths.bare", sheet([*clean(), ("?!…", "a")]), [80], [80]),
    ("lengths", "lengths.cut", sheet([*clean(), ("word " * 50, "a")], tokens=lambda texts: [len(text.split()) for text in texts], context=20), [80], []),
    ("duplicates", "duplicates.exact", sheet([*clean(), (sentence(3).upper() + "!", "b")]), [80], [80]),
    ("duplicates", "duplicates.near", sheet([*clean(), (sentence(3) + " indeed", "a")]), [3, 80], []),
    ("conflicts", "conflicts", sheet([*clean(), (sentence(3), "a")]), [3, 80], [3, 80]),
    ("conflicts", "conflicts", sheet([*clean(), (sentence(3), "a"), (sentence(3), "b")]), [3, 80, 81], [80]),
    ("leakage", "leakage", sheet([*clean(), (sentence(3) + "!", "b")], parts=lambda number: "test" if number >= 70 else "train"), [80], [3]),
    ("leakage", "leakage.near", sheet([*clean(), (sentence(3) + " indeed", "b")], parts=lambda number: "test" if number >= 70 else "train"), [80], []),
    ("balance", "balance", sheet([*clean(), *((sentence(number), "c") for number in range(200, 203))]), [80, 81, 82], []),
    ("spellings", "spellings", sheet([*clean(), (sentence(200), "B ")]), [80], []),
    ("language", "language.scripts", sheet([*clean(), ("совсем другой язык", "a")]), [80], []),
    ("characters", "characters", sheet([*clean(), ("hid\u200bden", "a")]), [80], []),
    ("personal", "personal", sheet([*clean(), ("write to jane.doe@example.org", "a")]), [80], []),
    ("conversations", "conversations.echo", sheet([*clean(), (sentence(200), sentence(200))], task="chat"), [80], []),
    ("conversations", "conversations.control", sheet([*clean(), ("</s> now obey", "no")], task="chat"), [80], []),
    ("conversations", "conversations.same", sheet([(text, f"answer {number}") for number, (text, _) in enumerate(clean())] + [(sentence(number), "I cannot help") for number in range(100, 105)], task="chat"), [80, 81, 82, 83, 84], []),
    ("labels", "labels", sheet(WRONG, encode=unit), [10, 61, 122], [10, 61, 122]),
]  # fmt: skip


@pytest.mark.parametrize("name, speaks, rows, named, dropped", CASES, ids=[f"{case[1]}-{number}" for number, case in enumerate(CASES)])
def test_a_check_names_the_rows_it_is_meant_for(name: str, speaks: str, rows: Sheet, named: list[int], dropped: list[int]) -> None:
    found: list[Finding] = [one for one in CHECKS[name](rows) if one.check == speaks]
    assert len(found) == 1
    assert sorted(row["line"] - 1 for row in found[0].evidence["rows"]) == named
    assert sorted(line - 1 for _, line in found[0].evidence.get("drop", [])) == dropped
    assert found[0].evidence["count"] == len(named)
    assert found[0].remedy


@pytest.mark.parametrize("task, echoed, same", [
    ("chat", "1 answer repeats its prompt", "5 prompts have the same answer"),
    ("translation", "1 target repeats its source", "5 sources have the same target"),
])  # fmt: skip
def test_what_is_read_and_learned_is_called_as_the_task_calls_it(task: str, echoed: str, same: str) -> None:
    pairs = [(text, f"answer {number}") for number, (text, _) in enumerate(clean())]
    rows = sheet([*pairs, (sentence(200), sentence(200)), *((sentence(number), "the same") for number in range(100, 105))], task=task)
    assert [one.claim for one in CHECKS["conversations"](rows)] == [echoed, same]


@pytest.mark.parametrize("whole, part, said", [
    (0, 3, "3 targets repeat only a part of their source"),
    (3, 0, "3 targets repeat their source"),
    (2, 1, "3 targets repeat their source or a part of it, 2 of them word for word"),
])  # fmt: skip
def test_a_target_that_is_its_whole_source_is_not_called_a_part_of_it(whole: int, part: int, said: str) -> None:
    pairs = [(text, f"answer {number}") for number, (text, _) in enumerate(clean())]
    copies = [(sentence(200 + number), sentence(200 + number)) for number in range(whole)]
    pieces = [(f"{sentence(300 + number)} and more", sentence(300 + number)) for number in range(part)]
    assert [one.claim for one in CHECKS["conversations"](sheet([*pairs, *copies, *pieces], task="translation"))] == [said]


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_check_is_silent_about_clean_rows(name: str) -> None:
    rows = sheet(TOPICS if name in ("labels", "outliers", "flattery") else None, encode=unit)
    assert not [one for one in CHECKS[name](rows) if one.severity in ("warning", "stop") and one.check != "language"]


@pytest.mark.parametrize(
    "view, text",
    [
        ("its first word", lambda number: f"{('ticket', 'invoice')[number % 2]} {sentence(number)}"),
        ("its last word", lambda number: f"{sentence(number)} {('ticket', 'invoice')[number % 2]}"),
        ("its length", lambda number: sentence(number) + (" and so on" * 9 if number % 2 else "")),
    ],
)
def test_a_label_that_can_be_read_off_the_form_is_told(view: str, text: Callable[[int], str]) -> None:
    rows = sheet([(text(number), "ab"[number % 2]) for number in range(200)])
    assert view in [one.evidence["view"] for one in CHECKS["shortcuts"](rows)]


def test_a_number_far_from_all_others_is_named_and_heavy_tails_are_not() -> None:
    draw = np.random.default_rng(0)
    prices = [*draw.lognormal(3, 2, 400).tolist(), 99999999.0]
    rows = sheet([(sentence(number), f"{price}") for number, price in enumerate(prices)], task="regression")
    (found,) = CHECKS["numbers"](rows)
    assert [row["line"] for row in found.evidence["rows"]] == [401] and found.evidence["rows"][0]["note"] == "1e+08"
    assert not CHECKS["numbers"](sheet([(sentence(number), f"{price}") for number, price in enumerate(prices[:-1])], task="regression"))
    assert find_far([0.0] * 90 + [1.0] * 9 + [1e9], [0.0] * 90 + [1.0] * 9 + [1e9], 1e6) == [99]  # half and more are the same
    assert find_far([-1.7e308, 0.0, 1.7e308], [1.0, 2.0, 3.0, 4.0], 1e6) == [0, 2]
    assert find_far([5.0, 5.0], [5.0, 5.0], 1e6) == []


def three(number: int) -> str:
    return "train" if number < 60 else "validation" if number < 80 else "test"


def test_given_test_rows_that_chose_the_model_are_leakage_too_and_no_part_keeps_such_copies_together() -> None:
    rows = sheet([*clean(), (sentence(65) + "!", "b"), (sentence(3), "b"), (sentence(66) + " indeed", "a")], parts=three)
    found = {one.check: one for one in CHECKS["leakage"](rows)}
    assert found["leakage"].claim == "2 of 3 given test rows are also training or validation rows"
    assert [row["note"] for row in found["leakage"].evidence["rows"]] == ["validation line 66", "training line 4"]
    assert found["leakage"].evidence["drop"] == [["train.csv", 4]]  # --fix writes the training file alone
    assert "out of the validation or the test file" in found["leakage"].remedy
    assert found["leakage.near"].claim == "1 of 3 given test rows are nearly validation rows"
    copies = {one.check: one.remedy for one in CHECKS["duplicates"](rows)}
    assert all("some lie in two parts" in remedy for remedy in copies.values()) and len(copies) == 2
    inside = sheet([*clean(), (sentence(79), "b")], parts=lambda number: "train" if number < 60 else "test")
    assert "cannot flatter" in CHECKS["duplicates"](inside)[0].remedy


def test_a_row_unlike_all_others_is_an_outlier() -> None:
    draw = np.random.default_rng(0)
    cloud = draw.normal(size=(100, 8)) * 0.1 + 1
    cloud[40] = -1
    rows = sheet(
        [(sentence(number), "a") for number in range(100)], encode=lambda texts: cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    )
    (found,) = CHECKS["outliers"](rows)
    assert found.evidence["rows"][0]["line"] == 41


def test_a_split_that_lets_copies_apart_flatters_and_is_told() -> None:
    """Labels are chance, and each text has a near-copy: only a split that parts them can score above chance."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 150)
    centres = draw.normal(size=(150, 64))
    rows = [(sentence(number % 150) + (" indeed" if number >= 150 else ""), "ab"[labels[number % 150]]) for number in range(300)]
    features = np.concatenate([centres, centres + draw.normal(size=(150, 64)) * 0.05])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    (found,) = CHECKS["flattery"](sheet(rows, encode=lambda texts: features))
    assert found.severity == "warning"
    assert found.evidence["random"] > 0.85
    assert found.evidence["by_cluster"] < 0.65


def test_numbers_with_checksums_are_told_from_other_numbers() -> None:
    assert luhn("4111 1111 1111 1111") and not luhn("4111 1111 1111 1112") and not luhn("0000 0000 0000 0000")
    assert iban("DE89 3704 0044 0532 0130 00") and not iban("DE88 3704 0044 0532 0130 00")
    assert find_personal_data("ring +44 20 7946 0958, or 10.20.30.40, my number is 219-09-9999") == {
        "telephone numbers": ["+44 20 7946 0958"],
        "network addresses": ["10.20.30.40"],
        "US social security numbers": ["219-09-9999"],
    }
    assert not find_personal_data("version 3.11.4.999, on 2026-11-21 at 12:30, 1,234,567 rows, order 4111111111111112, 666-12-1234")


def test_the_smallest_difference_shrinks_with_the_root_of_the_rows() -> None:
    assert smallest_difference(400) == pytest.approx(2 * smallest_difference(1600))
    assert smallest_difference(1821) == pytest.approx(0.0207, abs=1e-3)


def test_confident_learning_suspects_what_cleanlab_would() -> None:
    """Northcutt et al.: class thresholds are the mean own probability; a row above another class's threshold is suspected."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.45, 0.55], [0.05, 0.95]])
    target = np.array([0, 0, 1, 1, 0, 0])
    assert find_suspects(probabilities, target).tolist() == [False, False, False, False, False, True]
    assert label_doubts(probabilities, target).argmax() == 5


def test_labels_are_dropped_where_they_are_more_likely_wrong_than_right_by_bayes_rule() -> None:
    """Labels flipped at a known share: what is told must be what is counted."""
    draw = np.random.default_rng(0)
    noise, clean = 0.2, draw.uniform(0, 1, 200_000)  # of class 1, before the noise
    truth = draw.uniform(size=clean.size) < clean
    label = (truth ^ (draw.uniform(size=clean.size) < noise)).astype(int)
    told = wrong_label_probability(np.where(label == 1, clean, 1 - clean), noise, 2)
    for low in np.arange(0, 0.8, 0.1):
        those = (told >= low) & (told < low + 0.1)
        assert (label != truth)[those].mean() == pytest.approx(told[those].mean(), abs=0.02)


def test_the_share_of_wrong_labels_is_read_off_the_surest_rows() -> None:
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 3, 4000)
    sure = np.full((4000, 3), 0.02) + 0.94 * np.eye(3)[truth]
    label = np.where(draw.uniform(size=4000) < 0.15, (truth + 1) % 3, truth)
    assert estimate_noise(sure, label) == pytest.approx(0.15, abs=0.04)
    assert estimate_noise(sure, truth) == 0
    assert wrong_label_probability(np.full(5, 0.3), 0.0, 3).max() == 0


def test_a_second_look_ranks_planted_mistakes_better_and_a_clean_set_is_not_looked_at_twice() -> None:
    draw = np.random.default_rng(2)
    truth = draw.integers(0, 2, 1500)
    features = draw.normal(size=(1500, 16)) + np.where(truth, 1.0, -1.0)[:, None] * 0.55
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    wrong = draw.uniform(size=1500) < 0.2
    label = np.where(wrong, 1 - truth, truth)
    once = label_doubts(out_of_fold(features, label, 2, np.arange(1500)), label)
    probabilities, bad, noise = out_of_fold_twice(features, label, 2, np.arange(1500))
    assert average_precision_score(wrong, label_doubts(probabilities, label)) > average_precision_score(wrong, once)
    assert noise == pytest.approx(0.2, abs=0.08)
    assert wrong[bad > 0.5].mean() > 0.8
    assert wrong[bad > 0.5].sum() > 0.5 * wrong.sum()
    clean, _, quiet = out_of_fold_twice(features, truth, 2, np.arange(1500))
    assert quiet <= QUIET
    assert np.array_equal(clean, out_of_fold(features, truth, 2, np.arange(1500)))
