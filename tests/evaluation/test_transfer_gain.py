"""What a start is worth: differences are paired, both sources of chance widen the interval, and rows are read off the curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.core.types import Scores
from luthier.evaluation.compare import bootstrap_metric
from luthier.evaluation.transfer_gain import Measured, mean_over_seeds, paired_gain, rows_needed


def model(right: np.ndarray) -> Measured:
    """A classifier of two classes that is right where it is said."""
    shares = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    scores = Scores(-np.log(shares[:, 0]), np.ones(len(right)), np.zeros(len(right), dtype=int), shares)
    return Measured(float(right.mean()), bootstrap_metric("accuracy", scores))


def test_what_is_right_on_the_same_rows_differs_by_nothing_although_each_is_uncertain() -> None:
    right = np.arange(200) % 10 < 7
    ours, rival = ({seed: model(right) for seed in (1, 2)} for _ in range(2))
    gain = paired_gain(ours, rival, higher=True)
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
    alone = mean_over_seeds(ours)
    assert alone.low < 0.66 < 0.74 < alone.high


def test_one_seed_gives_the_bootstrap_of_the_rows() -> None:
    one = model(np.arange(300) % 3 > 0)
    low, high = np.quantile(one.draws, [0.025, 0.975])
    found = mean_over_seeds({1: one})
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_seeds_that_disagree_widen_the_interval() -> None:
    rows = np.arange(400)
    alike = {seed: model((rows * 7 + seed) % 10 < 7) for seed in range(5)}
    apart = {seed: model((rows * 7 + seed) % 10 < 5 + seed) for seed in range(5)}
    assert mean_over_seeds(apart).value == pytest.approx(mean_over_seeds(alike).value)
    widths = [found.high - found.low for found in (mean_over_seeds(alike), mean_over_seeds(apart))]
    assert widths[1] > 2 * widths[0]


def test_only_common_seeds_are_compared_and_less_may_be_better() -> None:
    good, bad = model(np.ones(50, dtype=bool)), model(np.arange(50) % 2 > 0)
    gain = paired_gain({1: good, 2: bad}, {1: bad, 3: good}, higher=True)
    assert gain is not None
    assert gain.value == 0.5
    turned = paired_gain({1: good}, {1: bad}, higher=False)
    assert turned is not None
    assert turned.value == -0.5
    assert paired_gain({1: good}, {2: bad}, higher=True) is None


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.5, 0.0), (0.6, 100.0), (0.7, math.sqrt(100 * 1000)), (0.8, 1000.0), (0.85, None)],
)
def test_rows_are_read_off_the_curve_between_two_points_of_it(value: float, wanted: float | None) -> None:
    found = rows_needed(value, [(100, 0.6), (1000, 0.8), (2000, 0.79)], higher=True)
    assert found == (wanted if wanted is None else pytest.approx(wanted))
    assert rows_needed(-value, [(100, -0.6), (1000, -0.8)], higher=False) == (wanted if wanted is None else pytest.approx(wanted))
