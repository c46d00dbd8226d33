"""Over-confidence does not decide: the tempered loss does not change when all logits are scaled."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.types import Scores
from luthier.evaluation.temperature_scaled import TEMPERATURES, temperature_scaled_loss
from luthier.objectives.multi_label import scores_of_labels


def scores(logits: np.ndarray, target: np.ndarray) -> Scores:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return Scores(loss=-np.log(shares[np.arange(len(target)), target]), count=np.ones(len(target)), target=target, probabilities=shares)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    target = draws.integers(0, 4, 400)
    return np.eye(4)[target] * 1.5 + draws.normal(size=(400, 4)), target


def test_scaled_logits_have_the_same_tempered_loss(drawn) -> None:
    logits, target = drawn
    step = TEMPERATURES[1] / TEMPERATURES[0]
    once, hot = (temperature_scaled_loss(scores(logits * scale, target)) for scale in (1.0, step**20))
    assert hot == pytest.approx(once, abs=1e-6)
    assert scores(logits * step**20, target).loss.mean() > 1.5 * once.mean()  # the plain loss is ruined by it


def test_it_is_never_greater_than_the_plain_loss_and_is_log_classes_where_nothing_is_known(drawn) -> None:
    logits, target = drawn
    plain = scores(logits, target)
    assert temperature_scaled_loss(plain).mean() <= plain.loss.mean() + 1e-9
    noise = scores(np.random.default_rng(1).normal(size=logits.shape) * 5, target)
    assert temperature_scaled_loss(noise).mean() == pytest.approx(np.log(4), abs=0.02)


def test_of_several_labels_one_temperature_takes_the_over_confidence_out_and_noise_stays_noise() -> None:
    draws = np.random.default_rng(2)
    actual = (draws.uniform(size=(400, 3)) < 0.3).astype(float)
    logits = 3 * actual - 1.5 + draws.normal(size=actual.shape)
    step = TEMPERATURES[1] / TEMPERATURES[0]
    once, hot = (scores_of_labels(1 / (1 + np.exp(-logits * scale)), actual, ("a", "b", "c")) for scale in (1.0, step**24))
    assert temperature_scaled_loss(hot) == pytest.approx(temperature_scaled_loss(once), abs=1e-6)
    assert hot.loss.mean() > 1.5 * temperature_scaled_loss(hot).mean()
    assert once.loss.mean() >= temperature_scaled_loss(once).mean()
    noise = scores_of_labels(draws.uniform(size=actual.shape), actual, ("a", "b", "c"))
    assert temperature_scaled_loss(noise).mean() == pytest.approx(3 * np.log(2), abs=0.05)


def test_without_classes_it_is_the_loss_of_each_learned_unit() -> None:
    chat = Scores(loss=np.array([4.0, 0.0, 9.0]), count=np.array([2.0, 0.0, 3.0]))
    assert temperature_scaled_loss(chat).tolist() == [2.0, 3.0]
