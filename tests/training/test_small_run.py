"""The small run speaks up for each planted fault, and stays silent for healthy work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from luthier.core.interfaces import NullReporter
from luthier.core.types import Scores, Step
from luthier.objectives.multi_label import scores_of_labels
from luthier.training.small_run import lr_too_high, not_finite, run_small
from tests.training.test_steps import work_for


def checks(work: Any) -> tuple[bool, set[str]]:
    found = run_small(work, NullReporter(), None, None)
    return found.go, {finding.check for finding in found.findings if finding.severity in ("warning", "stop")}


def test_healthy_work_gets_go_and_no_warning(bases, records) -> None:
    assert checks(work_for(bases, records, "classification", training__steps=200)) == (True, set())


@pytest.mark.parametrize("steps, small", [(2, 8), (12, 12), (30, 30), (60, 30)])
def test_what_comes_before_a_short_run_is_no_longer_than_it_is(bases, records, steps: int, small: int) -> None:
    found = run_small(work_for(bases, records, "classification", training__steps=steps), NullReporter(), None, None)
    assert found.findings[-1].evidence["steps"] == small


def test_targets_that_are_all_masked_get_no_go(bases, chats) -> None:
    work = work_for(bases, chats, "chat", training__steps=200)
    work.train = [replace(example, target=[False] * len(example.tokens), units=0.0) for example in work.train]
    go, spoke = checks(work)
    assert not go
    assert "smoke.masked" in spoke


def test_a_base_that_foresees_answers_no_better_behind_their_prompts_is_named_and_a_network_from_scratch_is_not(bases, chats) -> None:
    work = work_for(bases, chats, "chat", training__steps=30)
    assert "smoke.answers" in checks(work)[1]
    work.experiment = work.experiment.replace("model.base", "")
    assert "smoke.answers" not in checks(work)[1]


def test_a_head_that_cannot_move_gets_no_go(bases, records) -> None:
    work = work_for(bases, records, "classification", training__steps=200)
    for module in work.model.head:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    work.experiment = work.experiment.replace("adaptation.kind", "lora")  # full would set it moving again at each step
    go, spoke = checks(work)
    assert not go
    assert "smoke.head" in spoke


def test_a_rate_that_moves_nothing_gets_no_go(bases, records) -> None:
    go, spoke = checks(work_for(bases, records, "classification", training__steps=200, optimizer__lr=1e-14))
    assert not go
    assert "smoke.still" in spoke


@pytest.mark.parametrize(
    "after, late, stops",
    [
        (0.60, 0.40, False),  # it learns
        (0.58, 0.98, False),  # the last steps had hard rows; on rows it has not seen the model learned
        (0.70, 0.98, True),  # it learned on neither
        (1.30, 0.40, True),  # what it learned it spoils by far more
        (0.90, 0.40, False),  # a small sample learned by heart
    ],
)
def test_a_few_hard_rows_at_the_end_are_no_rate_that_is_too_high(bases, records, after: float, late: float, stops: bool) -> None:
    work = work_for(bases, records, "classification", training__steps=30)  # two classes alike frequent: guessing loses 0.693
    seen = [Step(number, 30, 0.8 if number < 20 else late, 4.0, 40, 4, 1e-4, 1.0, number / 30) for number in range(1, 31)]

    def scores(loss: float) -> Scores:
        return Scores(np.full(20, loss), np.ones(20), np.zeros(20, dtype=np.int64), np.full((20, 2), 0.5))

    assert (lr_too_high(work, seen, scores(0.82), scores(after)) is not None) == stops


@pytest.mark.parametrize(
    "began, ended, wrong, stops",
    [
        (0.3, 0.46, 12, False),  # as a head that begins as a linear probe: less sure of rows it has not seen, and right as often
        (0.3, 0.46, 30, True),  # right less often, beyond noise
        (0.3, 0.80, 12, True),  # worse than guessing
        (0.6, 0.92, 12, True),  # it knew nothing that it could keep
    ],
)
def test_a_head_that_begins_as_a_linear_probe_may_lose_sureness_but_no_right_answers(
    bases, records, began: float, ended: float, wrong: int, stops: bool
) -> None:
    work = work_for(bases, records, "classification", training__steps=30)
    seen = [Step(number, 30, 0.2, 4.0, 40, 4, 1e-4, 1.0, number / 30) for number in range(1, 31)]

    def scores(loss: float, wrong: int) -> Scores:
        right = np.arange(100) >= wrong
        return Scores(np.full(100, loss), np.ones(100), np.zeros(100, dtype=np.int64), np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]]))

    assert (lr_too_high(work, seen, scores(began, 10), scores(ended, wrong)) is not None) == stops


@pytest.mark.parametrize("skill, stops", [(1.0, False), (-0.3, True)])
def test_labels_that_are_only_said_too_surely_are_no_rate_that_is_too_high_and_labels_that_are_said_wrongly_are(
    bases, records, skill: float, stops: bool
) -> None:
    """A head that begins as a linear probe learns a small sample by heart: on other rows it says the same labels, ten times as surely."""
    draws = np.random.default_rng(4)
    actual = (draws.uniform(size=(100, 3)) < 0.4).astype(float)
    logits, noise = 2 * actual - 1, draws.normal(size=actual.shape)
    before, after = (
        scores_of_labels(1 / (1 + np.exp(-heat * (known * logits + noise))), actual, ("a", "b", "c"))
        for heat, known in ((1.0, 1.0), (10.0, skill))
    )
    assert after.loss.mean() > 1.5 * before.loss.mean()
    work = work_for(bases, records, "classification", training__steps=30)
    seen = [Step(number, 30, 1.5 / number, 4.0, 40, 4, 1e-4, 1.0, number / 30) for number in range(1, 31)]
    assert (lr_too_high(work, seen, before, after) is not None) == stops


@pytest.mark.parametrize("noise, stops", [(0.02, False), (2.0, True)])
def test_a_generator_that_foresees_unseen_answers_clearly_better_has_learned_whatever_the_last_rows_were(
    bases, chats, noise: float, stops: bool
) -> None:
    work = work_for(bases, chats, "chat", training__steps=30)
    seen = [Step(number, 30, 3.7, 4.0, 40, 4, 1e-4, 1.0, number / 30) for number in range(1, 31)]
    draws = np.random.default_rng(0)
    before = 3.416 + draws.normal(size=44)
    after = before - 0.153 + noise * draws.permutation(np.linspace(-1, 1, 44))  # the mean is the same with either noise
    found = lr_too_high(work, seen, *(Scores(loss, np.ones(44)) for loss in (before, after)))
    assert (found is not None) == stops


def test_a_rate_a_hundred_times_too_high_gets_no_go(bases, records) -> None:
    go, spoke = checks(work_for(bases, records, "classification", training__steps=200, optimizer__lr=3.0))
    assert not go
    assert spoke & {"smoke.learning_rate", "smoke.finite"}


def test_a_loss_that_is_no_number_gets_no_go_and_names_the_step_and_the_learning_rate() -> None:
    seen = [Step(number, 30, loss, 4.0, 40, 4, 1e6, 1.0, number / 30) for number, loss in ((1, 0.7), (2, float("nan")))]
    found = not_finite(seen)
    assert found is not None
    assert (found.severity, found.claim, found.evidence) == ("stop", "the loss was nan at step 2", {"step": 2, "learning_rate": 1e6})
