"""Metrics of numbers and of several labels a row, against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score, root_mean_squared_error

from luthier.core.types import Scores
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import METRICS, measure

DRAWS = np.random.default_rng(5)


def numbers(count: int = 200, skill: float = 1.0) -> Scores:
    actual = np.round(DRAWS.normal(size=count) * 10)  # with ties
    predicted = skill * actual + DRAWS.normal(size=count) * 5
    return Scores((predicted - actual) ** 2, np.ones(count), more={"predicted": predicted, "actual": actual})


def labels(count: int = 200, width: int = 4) -> Scores:
    actual = (DRAWS.random((count, width)) < (0.5, 0.2, 0.05, 0.0)).astype(float)
    predicted = np.clip(actual * 0.5 + DRAWS.random((count, width)) * 0.6, 0, 1)
    return Scores(np.ones(count), np.ones(count), more={"predicted": predicted, "actual": actual})


def test_numbers_are_measured_as_libraries_measure_them() -> None:
    found = numbers()
    actual, predicted = found.more["actual"], found.more["predicted"]
    expected = {
        "mae": mean_absolute_error(actual, predicted),
        "rmse": root_mean_squared_error(actual, predicted),
        "r2": r2_score(actual, predicted),
        "spearman": spearmanr(actual, predicted).statistic,
    }
    assert measure(found, tuple(expected)) == pytest.approx(expected)


def test_several_labels_are_measured_as_libraries_measure_them() -> None:
    found = labels()
    actual, said = found.more["actual"] >= 0.5, found.more["predicted"] >= 0.5
    met = actual.any(0) | said.any(0)
    expected = {
        "micro_f1": f1_score(actual, said, average="micro"),
        "label_macro_f1": f1_score(actual[:, met], said[:, met], average="macro", zero_division=0),
        "exact_match": accuracy_score(actual, said),
    }
    assert measure(found, tuple(expected)) == pytest.approx(expected)


def test_what_does_not_vary_has_no_correlation_and_explains_nothing() -> None:
    same = Scores(np.ones(5), np.ones(5), more={"predicted": np.ones(5), "actual": np.arange(5.0)})
    assert measure(same, ("spearman",))["spearman"] == 0
    flat = Scores(np.ones(5), np.ones(5), more={"predicted": np.arange(5.0), "actual": np.ones(5)})
    assert measure(flat, ("r2",))["r2"] == 0


def test_intervals_hold_the_value_and_the_better_of_two_is_told_in_the_metrics_own_direction() -> None:
    good, bad = numbers(), numbers(skill=0.0)
    bad = Scores(bad.loss, bad.count, more={"predicted": bad.more["predicted"], "actual": good.more["actual"]})
    for name in ("mae", "rmse", "r2", "spearman"):
        low, high = interval(name, good)
        assert low <= measure(good, (name,))[name] <= high
        assert paired_interval(name, good, bad)[1] > 0, name
    assert METRICS["mae"].higher is False
