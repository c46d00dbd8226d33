"""Which candidate the validation rows favour."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.types import Scores
from luthier.evaluation.calibrate import apply_temperature, average_scores, fit_temperature
from luthier.evaluation.candidate_choice import choose_candidate, lead_of
from luthier.evaluation.compare import paired_interval


def draw(count: int, skills: tuple[float, float], seed: int, classes: int = 3) -> dict[str, Scores]:
    """Two classifiers of some skill that err independently, and their average."""
    draws = np.random.default_rng(seed)
    target = draws.integers(0, classes, count)
    made = {}
    for name, skill in zip(("trained", "probe"), skills, strict=True):
        logits = skill * (np.eye(classes)[target] * skill + draws.normal(size=(count, classes)))
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        made[name] = Scores(-np.log(shares[np.arange(count), target]), np.ones(count), target, shares)
    both = average_scores(made["trained"], made["probe"])
    return made | {"average": apply_temperature(both, fit_temperature(both))}


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_two_of_equal_skill_are_averaged_and_a_far_better_one_is_not_spoilt(metric: str) -> None:
    assert choose_candidate(draw(300, (1.5, 1.5), 1), metric) == "average"
    assert choose_candidate(draw(300, (3.5, 0.3), 2), metric) == "trained"
    assert choose_candidate(draw(300, (0.3, 3.5), 3), metric) == "probe"


def test_candidates_that_say_the_same_give_the_first() -> None:
    same = draw(100, (1.5, 1.5), 4)["trained"]
    assert choose_candidate({"trained": same, "probe": same, "average": same}, "accuracy") == "trained"


@pytest.mark.parametrize("rows", [80, 300])
def test_the_choice_is_seldom_far_from_the_best(rows: int) -> None:
    lost = []
    for seed in range(40):
        skills = (1.6, 0.8 + seed % 5 * 0.4)
        chosen = choose_candidate(draw(rows, skills, seed), "accuracy")
        right = {name: float((each.probabilities.argmax(1) == each.target).mean()) for name, each in draw(4000, skills, seed + 999).items()}  # type: ignore[union-attr]
        lost.append(max(right.values()) - right[chosen])
    assert np.mean(lost) < 0.01


def test_the_error_of_a_lead_is_that_of_the_paired_comparison() -> None:
    some = draw(400, (1.5, 1.2), 5)
    for metric in ("accuracy", "loss"):
        value, error = lead_of(some["trained"], some["probe"], metric)
        theirs, low, high = paired_interval(metric, some["trained"], some["probe"])
        assert value == pytest.approx(theirs)
        assert error == pytest.approx((high - low) / 3.92, rel=0.1)
