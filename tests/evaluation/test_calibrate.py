"""One temperature: found where there is one, 1 where the rows are too few to tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from luthier.core.types import Scores
from luthier.evaluation.calibrate import apply_temperature, average_scores, chance_calibration_error, fit_temperature
from luthier.evaluation.metrics import measure


def scores(count: int, heat: float, seed: int = 0, classes: int = 4) -> Scores:
    """Rows of a classifier that is calibrated at heat 1, and surer than it is right where the heat is above that."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(count, classes)) * 2
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.array([draws.choice(classes, p=share) for share in true])
    shares = np.exp(heat * logits)
    shares /= shares.sum(1, keepdims=True)
    return Scores(-np.log(shares[np.arange(count), target]), np.ones(count), target, shares)


@pytest.mark.parametrize("heat", [0.5, 2.0, 3.0])
def test_the_temperature_that_was_planted_is_found(heat: float) -> None:
    found = fit_temperature(scores(2000, heat))
    assert found == pytest.approx(heat, rel=0.08)
    test = scores(5000, heat, seed=1)
    before, after = (measure(each, ("accuracy", "calibration_error", "loss")) for each in (test, apply_temperature(test, found)))
    assert after["calibration_error"] < before["calibration_error"] / 2
    assert after["loss"] < before["loss"]
    assert after["accuracy"] == before["accuracy"]


def test_a_few_rows_that_are_all_right_do_not_make_a_model_sure_of_everything() -> None:
    target = np.arange(40) % 2
    shares = np.where(np.eye(2)[target] > 0, 0.9, 0.1)
    found = fit_temperature(Scores(-np.log(shares[np.arange(40), target]), np.ones(40), target, shares))
    assert 0.4 < found < 1.0


@pytest.mark.parametrize("seed", range(5))
def test_on_few_rows_a_calibrated_model_stays_about_as_it_is(seed: int) -> None:
    assert fit_temperature(scores(60, 1.0, seed)) == pytest.approx(1.0, abs=0.45)
    assert fit_temperature(scores(10, 3.0, seed)) == 1.0  # too few to tell


def test_few_rows_are_believed_a_little_and_many_wholly() -> None:
    found = {rows: [fit_temperature(scores(rows, 2.0, seed)) for seed in range(20)] for rows in (40, 1000)}
    assert 1.0 not in found[40]  # no held-out fold has a veto
    assert 1.2 < np.mean(found[40]) < np.mean(found[1000]) < 2.1


def test_a_temperature_and_its_inverse_are_nothing() -> None:
    some = scores(50, 1.0)
    back = apply_temperature(apply_temperature(some, 1.7), 1 / 1.7)
    assert back.probabilities == pytest.approx(some.probabilities, abs=1e-9)
    assert back.loss == pytest.approx(some.loss, abs=1e-9)


def test_the_average_of_two_is_the_mean_of_what_they_say() -> None:
    one, two = scores(50, 1.0), scores(50, 3.0)
    both = average_scores(one, two)
    assert one.probabilities is not None and two.probabilities is not None and both.probabilities is not None
    assert both.probabilities == pytest.approx((one.probabilities + two.probabilities) / 2)
    assert both.loss == pytest.approx(-np.log(both.probabilities[np.arange(50), one.target]))


def score_with_confidence(confidence: np.ndarray) -> Scores:
    """Rows of two classes, of which the first has this probability."""
    shares = np.stack([confidence, 1 - confidence], 1)
    return Scores(np.zeros(len(shares)), np.ones(len(shares)), np.zeros(len(shares), int), shares)


@pytest.mark.parametrize(("rows", "confidence"), [(10, 0.5), (15, 0.8), (19, 0.9)])
def test_by_chance_one_bin_differs_by_the_mean_deviation_of_a_binomial(rows: int, confidence: float) -> None:
    count = np.arange(rows + 1)
    expected = float((binom.pmf(count, rows, confidence) * np.abs(count / rows - confidence)).sum())
    assert chance_calibration_error(score_with_confidence(np.full(rows, confidence)), draws=20_000) == pytest.approx(expected, rel=0.02)


def test_by_chance_many_bins_differ_by_the_half_normal_mean_of_each_and_the_same_each_time() -> None:
    confidence = np.random.default_rng(0).uniform(0.5, 1, 1500)
    parts = np.array_split(np.sort(confidence), 15)
    expected = np.mean([np.sqrt(2 / np.pi * (part * (1 - part)).mean() / len(part)) for part in parts])
    found = chance_calibration_error(score_with_confidence(confidence))
    assert found == pytest.approx(expected, rel=0.04)
    assert found == chance_calibration_error(score_with_confidence(confidence))
    assert chance_calibration_error(score_with_confidence(np.ones(200))) == 0


def test_a_calibrated_model_shows_about_what_chance_says_and_a_boastful_one_more() -> None:
    honest, boastful = (scores(1200, heat) for heat in (1.0, 3.0))
    shown = np.mean([measure(scores(1200, 1.0, seed), ("calibration_error",))["calibration_error"] for seed in range(8)])
    assert chance_calibration_error(honest) == pytest.approx(shown, rel=0.25)
    assert measure(boastful, ("calibration_error",))["calibration_error"] > 3 * chance_calibration_error(boastful)
