"""Metrics of pairs in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luthier.core.types import Scores
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import measure


def scores(lead: Any, count: Any = None) -> Scores:
    lead = np.asarray(lead, float)
    ones = np.ones(len(lead))
    more = {
        "reward": 0.1 * lead, "chosen": lead + 1, "rejected": ones, "chosen_tokens": 4 * ones, "rejected_tokens": 1 * ones,
        "drift": np.arange(len(lead)) / 10,
    }  # fmt: skip
    return Scores(ones, ones if count is None else np.asarray(count, float), more=more)


def test_half_of_the_pairs_that_are_liked_equally_count_as_right() -> None:
    assert measure(scores([2.0, -1.0, 0.0, 3.0]), ("pair_accuracy",))["pair_accuracy"] == pytest.approx(2.5 / 4)


def test_pairs_that_teach_nothing_do_not_count() -> None:
    found = measure(scores([2.0, -1.0, -5.0], count=[1, 1, 0]), ("pair_accuracy", "reward_margin"))
    assert found == {"pair_accuracy": pytest.approx(0.5), "reward_margin": pytest.approx(0.05)}


def test_a_long_answer_does_not_win_by_its_length_alone() -> None:
    found = measure(scores([2.0, 4.0]), ("pair_accuracy", "length_normalised_accuracy"))
    assert found == {"pair_accuracy": 1.0, "length_normalised_accuracy": 0.5}  # 3/4 of a nat a token against 1; 5/4 against 1


def test_drift_is_a_token_and_intervals_hold_what_they_are_of() -> None:
    some = scores(np.linspace(-1, 3, 40))
    value = measure(some, ("drift",))["drift"]
    assert value == pytest.approx(np.arange(40).sum() / 10 / 160)
    low, high = interval("drift", some)
    assert low < value < high
    gain, low, high = paired_interval("pair_accuracy", some, scores(-np.linspace(-1, 3, 40)))
    assert low < gain < high and gain == pytest.approx(0.5)
