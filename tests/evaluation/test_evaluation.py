"""Numbers against scikit-learn and rouge_score; intervals that cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from luthier.core.types import Scores
from luthier.evaluation.baselines import scores_of
from luthier.evaluation.by_class import per_class
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import calibration, measure
from luthier.evaluation.overlap import rouge_l
from luthier.evaluation.verdict import decide


def scores(count: int, classes: int, skill: float, seed: int) -> Scores:
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, count)
    logits = random.normal(size=(count, classes))
    logits[np.arange(count), target] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = probabilities[np.arange(count), target]
    return Scores(-np.log(right), np.ones(count), target, probabilities)


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_equal_scikit_learns(classes: int) -> None:
    found = scores(300, classes, 1.0, 1)
    assert found.target is not None
    assert found.probabilities is not None
    said = found.probabilities.argmax(1)
    measured = measure(found, ("accuracy", "macro_f1"))
    assert measured["accuracy"] == pytest.approx(accuracy_score(found.target, said))
    assert measured["macro_f1"] == pytest.approx(f1_score(found.target, said, average="macro"))
    theirs = precision_recall_fscore_support(found.target, said, labels=range(classes))
    for number, row in enumerate(per_class(found, tuple("abcde"[:classes]))):
        assert (row["precision"], row["recall"], row["f1"], row["n"]) == pytest.approx(tuple(column[number] for column in theirs))


def test_a_model_that_is_as_sure_as_it_is_right_has_a_small_calibration_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 20_000)
    right = random.uniform(size=20_000) < confidence
    probabilities = np.stack([confidence, 1 - confidence], 1)
    honest = Scores(np.ones(20_000), np.ones(20_000), np.where(right, 0, 1), probabilities)
    boastful = Scores(np.ones(20_000), np.ones(20_000), np.where(random.uniform(size=20_000) < 0.5, 0, 1), probabilities)
    assert measure(honest, ("calibration_error",))["calibration_error"] < 0.02
    assert measure(boastful, ("calibration_error",))["calibration_error"] > 0.2
    assert sum(part["n"] for part in calibration(honest)) == 20_000


@pytest.mark.parametrize(
    "one, two", [("the cat sat on the mat", "the cat was on a mat"), ("A b, c!", "c b a"), ("x", "y"), ("same words", "same words")]
)
def test_rouge_l_equals_rouge_scores(one: str, two: str) -> None:
    assert rouge_l(one, two) == pytest.approx(RougeScorer(["rougeL"]).score(two, one)["rougeL"].fmeasure)


def test_bits_per_byte_and_loss_are_ratios_of_sums() -> None:
    found = Scores(np.array([2.0, 6.0]), np.array([1.0, 3.0]), bytes=np.array([4.0, 12.0]))
    measured = measure(found, ("loss", "bits_per_byte"))
    assert measured["loss"] == 2.0
    assert measured["bits_per_byte"] == pytest.approx(0.5 / np.log(2))


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        one, two = scores(300, 2, 1.0, seed), scores(300, 2, 1.0, seed + 1000)
        two = Scores(two.loss, two.count, one.target, two.probabilities)  # as good as chance for the first's targets
        value, low, high = paired_interval("accuracy", one, two)
        covered += low <= 0.7602 - 0.5 <= high
        assert low <= value <= high
    assert covered >= 52


def test_less_loss_is_an_improvement() -> None:
    ours = Scores(np.full(50, 1.0), np.ones(50), bytes=np.ones(50))
    rival = Scores(np.full(50, 1.5), np.ones(50), bytes=np.ones(50))
    assert paired_interval("loss", ours, rival) == pytest.approx((0.5, 0.5, 0.5))
    low, high = interval("loss", ours)
    assert low == high == 1.0


@pytest.mark.parametrize("skill, rival, word", [(3.0, 0.5, "improved"), (1.0, 1.0, "no_evidence"), (0.3, 3.0, "worse")])
def test_the_verdict_is_against_the_strongest_baseline(skill: float, rival: float, word: str) -> None:
    ours, base, trivial = scores(400, 2, skill, 1), scores(400, 2, rival, 2), scores(400, 2, 0.0, 3)
    base = scores_like(base, ours)
    trivial = scores_like(trivial, ours)
    for bases, expected in (((base, trivial), "base"), ((trivial, base), "trivial")):
        verdict = decide(
            "classification",
            ("accuracy", "loss"),
            ours,
            ("base", bases[0]),
            {"trivial": bases[1], "worst": scores_like(scores(400, 2, -2.0, 4), ours)},
        )
        assert verdict["verdict"] == word
        assert verdict["difference"]["against"] == expected


def scores_like(found: Scores, ours: Scores) -> Scores:
    """The same skill, on the targets of another model's rows."""
    assert found.probabilities is not None
    assert ours.target is not None
    assert found.target is not None
    swap = (found.target != ours.target)[:, None]
    return Scores(found.loss, found.count, ours.target, np.where(swap, found.probabilities[:, ::-1], found.probabilities))


def test_a_baselines_loss_is_that_of_its_probabilities() -> None:
    from luthier.core.types import Example, Record

    examples = [Example(0, {"tokens": []}, 1, Record(1, {}), 1), Example(1, {"tokens": []}, 0, Record(2, {}), 1)]
    assert scores_of(np.array([[0.25, 0.75], [0.5, 0.5]]), examples).loss == pytest.approx([-np.log(0.75), -np.log(0.5)])
