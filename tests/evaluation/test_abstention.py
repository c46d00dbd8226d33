"""Promised errors: kept on rows that nobody has seen, refused where the rows are too few, and told in plain numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from luthier.evaluation.abstention import (
    Abstention,
    Counts,
    describe_abstention,
    error_bound,
    explain_abstention,
    explain_promise,
    measure_abstention,
    rows_needed,
    tabulate_abstention,
)


@pytest.mark.parametrize(("answered", "wrong"), [(1, 0), (60, 0), (60, 3), (200, 40)])
def test_at_the_bound_so_few_mistakes_are_seen_once_in_twenty_times(answered: int, wrong: int) -> None:
    assert binom.cdf(wrong, answered, error_bound(answered, wrong)) == pytest.approx(0.05)


def test_where_nothing_is_right_or_nothing_is_answered_nothing_is_bounded() -> None:
    assert error_bound(0, 0) == error_bound(5, 5) == 1


@pytest.mark.parametrize("error", [0.01, 0.05, 0.2])
def test_so_many_rows_without_a_mistake_promise_an_error_and_one_fewer_does_not(error: float) -> None:
    rows = rows_needed(error)
    assert error_bound(rows, 0) <= error < error_bound(rows - 1, 0)


def draw(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that are evenly spread from 0.5 to 1, each as often right as it says."""
    chance = np.random.default_rng(seed)
    confidence = chance.uniform(0.5, 1, rows)
    return confidence, chance.random(rows) < confidence


def true_error(threshold: float) -> float:
    """Of `draw`: the mean of 1 − c from the threshold to 1."""
    return (1 - max(threshold, 0.5)) / 2


@pytest.mark.parametrize(("rows", "error"), [(100, 0.15), (400, 0.1), (400, 0.2), (1000, 0.05)])
def test_a_promise_is_broken_in_fewer_than_one_of_twenty_cases(rows: int, error: float) -> None:
    promises = [tabulate_abstention(*draw(rows, seed)).promise(error) for seed in range(400)]
    made = [promise for promise in promises if promise is not None]
    broken = sum(true_error(promise.counts.threshold) > error for promise in made)
    assert len(made) > 100
    assert broken <= 20 + 3 * np.sqrt(19)  # what chance adds to a twentieth of 400
    best = 2 * error / 0.5  # the share above the threshold that has this error exactly
    assert np.mean([promise.share for promise in made]) > 0.3 * min(best, 1)


def test_the_surest_rows_are_tested_first_and_the_first_failure_ends_it() -> None:
    counts = (Counts(0.9, 100, 0), Counts(0.8, 150, 1), Counts(0.7, 200, 30), Counts(0.6, 4000, 40))
    found = Abstention(4000, counts).promise(0.05)
    assert found is not None and found.counts.threshold == 0.8  # the last one would hold alone, but stands behind one that fails
    assert (
        Abstention(4000, (Counts(0.99, 3, 1), *counts)).promise(0.05) == found
    )  # three rows tell nothing, whatever they are: they end nothing


def test_few_rows_promise_little_and_say_how_much() -> None:
    confidence = np.linspace(0.99, 0.6, 60)
    found = tabulate_abstention(confidence, np.ones(60, bool))
    assert found.promise(0.04) is None
    assert found.least_error() == pytest.approx(error_bound(60, 0), abs=1e-3)
    promise = found.promise(found.least_error())
    assert promise is not None and promise.share == 1 and promise.counts.threshold == 0
    assert tabulate_abstention(confidence, np.zeros(60, bool)).least_error() == 1


def test_thresholds_have_few_digits_and_rows_that_are_equally_sure_are_answered_together() -> None:
    confidence = np.array([0.97123456, 0.97123456, 0.91987654, 0.91987654, 0.52, 0.51])
    found = tabulate_abstention(confidence, np.array([True, True, False, True, True, False]))
    assert [(each.answered, each.wrong) for each in found.counts] == [(2, 0), (4, 1), (5, 1), (6, 2)]
    assert [each.threshold for each in found.counts] == [0.97, 0.9, 0.52, 0]
    for each in found.counts:
        assert (confidence >= each.threshold).sum() == each.answered


def test_a_table_stays_small_and_is_the_same_after_it_was_written() -> None:
    found = tabulate_abstention(*draw(5000, 1))
    assert len(found.counts) == 40 and found.counts[-1] == Counts(0.0, 5000, found.counts[-1].wrong)
    assert Abstention.from_json(found.as_json()) == found
    assert tabulate_abstention(np.empty(0), np.empty(0, bool)).counts == ()


def test_what_a_threshold_gives_on_other_rows_is_counted() -> None:
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    assert measure_abstention(0.7, confidence, right) == {"rows": 4, "answered": 0.75, "error": pytest.approx(1 / 3)}
    assert measure_abstention(0.95, confidence, right) == {"rows": 4, "answered": 0, "error": None}


def test_the_report_says_what_is_promised_and_what_the_test_rows_gave() -> None:
    found = tabulate_abstention(*draw(4000, 3))
    details = describe_abstention(found, *draw(2000, 4))
    levels = [each["error_below"] for each in details["promises"]]
    assert levels == sorted({*(level for level in (0.01, 0.02, 0.05, 0.1, 0.2) if found.promise(level)), details["least_error"]})
    five = next(each for each in details["promises"] if each["error_below"] == 0.05)
    assert explain_abstention(details) == (
        f"of its answers from a confidence of {five['threshold']:g} on at most 5% are wrong (95% sure): {five['answered']:.0%} of the validation rows are answered; "
        f"on the test rows {five['test']['answered']:.0%} are answered, and {five['test']['error']:.1%} of them were wrong"
    )
    promise = found.promise(0.05)
    assert promise is not None and f"from a confidence of {five['threshold']:g} on: at most 5% of them are wrong" in explain_promise(
        promise
    )
    always = describe_abstention(tabulate_abstention(np.linspace(0.9, 1, 100), np.ones(100, bool)), np.ones(10), np.ones(10, bool))
    assert explain_abstention(always) == "of all its answers at most 5% are wrong (95% sure); on the test rows 0.0% of them were wrong"
    never = describe_abstention(tabulate_abstention(np.ones(3), np.zeros(3, bool)), np.ones(3), np.ones(3, bool))
    assert explain_abstention(never) == "3 validation rows are too few to promise anything of its surest answers"
