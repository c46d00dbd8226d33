"""The verdict in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luthier.core.types import Scores
from luthier.evaluation.verdict import decide, explain_cut, format_budget, verdict_finding, verdict_sentence


def verdict(word: str, value: float, low: float, high: float, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    difference = {"against": "trivial", "name": "TF-IDF + logistic regression", "value": value, "low": low, "high": high}
    higher = metric == "accuracy"
    return {"verdict": word, "metric": metric, "higher_is_better": higher, "difference": difference, "test": {"n": 1600}, **more}


@pytest.mark.parametrize("given, words", [
    (("improved", 0.031, 0.01, 0.052),
     "+3.1 points [1.0, 5.2] against TF-IDF + logistic regression, the strongest baseline: better beyond noise on 1,600 unseen rows."),
    (("no_evidence", -0.004, -0.02, 0.012),
     "-0.4 points [-2.0, 1.2] against TF-IDF + logistic regression, the strongest baseline: no evidence that it is better on 1,600 unseen rows."),
    (("worse", -0.085, -0.11, -0.06),
     "Worse by 8.5 points [6.0, 11.0] than TF-IDF + logistic regression, the strongest baseline, on 1,600 unseen rows."),
    (("improved", 0.12, 0.1, 0.15, "loss"),
     "loss -0.1200 [-0.1500, -0.1000] against TF-IDF + logistic regression, the strongest baseline: better beyond noise on 1,600 unseen rows."),
    (("worse", -0.12, -0.15, -0.1, "loss"),
     "Worse by 0.1200 [0.1000, 0.1500] than TF-IDF + logistic regression, the strongest baseline, on 1,600 unseen rows."),
])  # fmt: skip
def test_a_verdict_is_one_plain_sentence(given: tuple[Any, ...], words: str) -> None:
    assert verdict_sentence(verdict(*given)) == words


@pytest.mark.parametrize("word, value", [("no_evidence", 0.0), ("worse", -0.1)])
def test_nobody_is_told_to_use_a_model_of_which_there_is_no_file(word: str, value: float) -> None:
    found = verdict_finding(verdict(word, value, value - 0.01, value + 0.01, base={"name": "minilm-l6"}))
    assert "rival" not in found.claim + found.remedy
    assert "use the" not in found.remedy
    assert "luthier similar" in found.remedy
    assert (
        "luthier similar" not in verdict_finding(verdict(word, value, value - 0.01, value + 0.01)).remedy
    )  # from scratch: no base to change


@pytest.mark.parametrize("word", ["no_evidence", "worse"])
def test_where_bases_cannot_be_ranked_the_command_that_compares_them_is_named(word: str) -> None:
    remedy = verdict_finding(verdict(word, -0.1, -0.2, -0.05, base={"name": "efficientnet-lite0"}), ranks_bases=False).remedy
    assert "luthier transfer DATA --from" in remedy
    assert "luthier similar" not in remedy


def test_of_answers_only_rows_that_were_answered_are_counted() -> None:
    references = np.array(["one red house", "two birds", "a fish", "three cats"], dtype=object)
    outputs = np.array(["one red house", "two dogs", None, None], dtype=object)
    ours = Scores(np.ones(4), np.ones(4), outputs=outputs, references=references)
    assert decide("translation", ("chrf", "loss"), ours, None, {"copy": ours})["test"]["n"] == 2
    assert decide("translation", ("loss",), ours, None, {"copy": ours})["test"]["n"] == 4


def test_a_training_that_the_budget_cut_is_the_likely_reason_unless_it_won() -> None:
    cut = {"steps": 412, "wanted": 1201, "budget": 240.0, "enough": 655.0}
    lost = verdict("no_evidence", 0.0, -0.01, 0.01, cut=cut, ships="average")
    assert explain_cut(lost) == (
        "the budget of 4 min 00 s cut the training to 412 of 1,201 steps, which is the likely reason: `--budget 11m` would be enough for all of them"
    )
    assert explain_cut(lost) in verdict_finding(lost).remedy
    assert explain_cut(verdict("improved", 0.1, 0.05, 0.15, cut=cut, ships="probe"))
    assert not explain_cut(verdict("improved", 0.1, 0.05, 0.15, cut=cut, ships="trained"))
    assert not explain_cut(verdict("no_evidence", 0.0, -0.01, 0.01, ships="average"))


@pytest.mark.parametrize(
    "seconds, text", [(42.1, "50s"), (100.0, "100s"), (109.0, "110s"), (110.0, "2m"), (655.0, "11m"), (7200.0, "120m")]
)
def test_a_budget_that_is_named_is_no_less_than_what_is_needed(seconds: float, text: str) -> None:
    assert format_budget(seconds) == text


def test_few_rows_give_no_interval_and_no_certainty() -> None:
    right, wrong = (Scores(loss=np.full(3, value), count=np.ones(3)) for value in (1.0, 2.0))
    verdict = decide("word2vec", ("loss",), right, None, {"frequencies": wrong})
    assert verdict["verdict"] == "no_evidence"
    said = verdict_sentence(verdict)
    assert (
        said
        == "loss -1.0000 against frequencies, the strongest baseline: no evidence that it is better, for 3 unseen rows are too few for an interval."
    )
    assert decide("word2vec", ("loss",), wrong, None, {"frequencies": right})["verdict"] == "no_evidence"
