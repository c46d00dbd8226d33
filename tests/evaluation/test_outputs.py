"""What follows from what the outputs of a head mean: a temperature for labels, the average of two models, and the linear model on the untouched base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from luthier.core.types import Example, Record, Scores
from luthier.evaluation.baselines import LENGTH
from luthier.evaluation.calibrate import SPREAD
from luthier.evaluation.candidate_choice import choose_candidate
from luthier.evaluation.metrics import measure
from luthier.evaluation.outputs import Number, OneClass, Outputs, SeveralLabels, decisions
from luthier.models.linear_probe import average_outputs
from luthier.objectives.multi_label import MultiLabel, scores_of_labels
from luthier.objectives.regression import Regression, scores_of_numbers
from tests.evaluation.test_calibrate import scores as scores_of_classes

LABELS = ("a", "b", "c")
F1 = ("micro_f1", "label_macro_f1", "exact_match")


def label(rows: int, heat: float, seed: int = 0) -> tuple[np.ndarray, Scores]:
    """Log-odds that are calibrated where the heat is 1, and scores that are surer than they are right where it is above that."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(rows, len(LABELS))) * 2 - 1
    actual = (draws.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    return heat * logits, scores_of_labels(1 / (1 + np.exp(-heat * logits)), actual, LABELS)


@pytest.mark.parametrize("heat", [0.5, 2.0, 3.0])
def test_at_the_temperature_of_labels_the_gradient_of_the_log_loss_and_its_prior_is_zero_and_the_planted_one_is_found(heat: float) -> None:
    logits, scores = label(1500, heat)
    found = SeveralLabels().fit_temperature(scores)
    assert found == pytest.approx(heat, rel=0.08)

    def gradient(temperature: float) -> float:
        """Of the summed binary cross-entropy, and of the prior on the logarithm of the temperature, by that logarithm."""
        cooled = logits / temperature
        return float(((scores.more["actual"] - 1 / (1 + np.exp(-cooled))) * cooled).sum() + np.log(temperature) / SPREAD**2)

    slope = (gradient(found * 1.01) - gradient(found / 1.01)) / (2 * np.log(1.01))
    assert slope > 0  # it is a minimum
    assert abs(gradient(found) / slope) < 2e-4  # and no further from it than the digits that are kept and the search's own tolerance
    test = label(4000, heat, seed=1)[1]
    after = SeveralLabels().apply_temperature(test, found)
    before, cooled = (measure(each, ("loss", *F1)) for each in (test, after))
    assert cooled["loss"] < before["loss"]
    assert all(cooled[name] == before[name] for name in F1)


def test_a_temperature_changes_no_label_that_is_said_and_one_on_the_border_stays_there() -> None:
    likely = np.array([[0.5, 0.5 - 1e-12, 0.5 + 1e-12], [0.0, 1.0, 1e-20], [1 - 1e-16, 0.3, 0.9]])
    given = scores_of_labels(likely, np.eye(3), LABELS)
    for temperature in (0.05, 1.7, 20.0):
        said = SeveralLabels().apply_temperature(given, temperature).more["predicted"]
        assert ((said >= 0.5) == (likely >= 0.5)).all()
        assert said[0, 0] == 0.5
        assert np.isfinite(SeveralLabels().apply_temperature(given, temperature).loss).all()


def test_the_loss_at_a_temperature_is_that_of_the_divided_log_odds() -> None:
    logits, scores = label(60, 2.5)
    actual, said = scores.more["actual"], 1 / (1 + np.exp(-logits / 1.7))
    found = SeveralLabels().apply_temperature(scores, 1.7)
    assert found.more["predicted"] == pytest.approx(said)
    assert found.loss == pytest.approx(-np.log(np.where(actual > 0, said, 1 - said)).sum(1))
    back = SeveralLabels().apply_temperature(found, 1 / 1.7)
    assert back.loss == pytest.approx(scores.loss)
    assert SeveralLabels().apply_temperature(scores, 1.0) is scores


def test_few_rows_of_labels_leave_the_temperature_at_1_and_more_keep_it_near() -> None:
    assert SeveralLabels().fit_temperature(label(19, 4.0)[1]) == 1.0
    kept = [SeveralLabels().fit_temperature(label(200, 1.0, seed)[1]) for seed in range(10)]
    assert np.mean(kept) == pytest.approx(1.0, abs=0.1)


def test_the_average_of_labels_is_the_mean_of_the_probabilities_here_and_in_the_network() -> None:
    (one, first), (two, second) = label(50, 1.0), label(50, 3.0)
    both = SeveralLabels().average_scores(first, second)
    mean = (first.more["predicted"] + second.more["predicted"]) / 2
    assert both.more["predicted"] == pytest.approx(mean)
    assert both.loss == pytest.approx(scores_of_labels(mean, first.more["actual"], LABELS).loss)
    network = average_outputs([torch.from_numpy(one), torch.from_numpy(two)], "sigmoid").sigmoid().numpy()
    assert network == pytest.approx(mean, abs=1e-12)
    far = average_outputs([torch.tensor([[200.0, -200.0]]), torch.tensor([[190.0, 190.0]])], "sigmoid")
    assert far[0].tolist() == pytest.approx([190 + np.log(2), 0.0], abs=1e-4)


def test_the_average_of_numbers_is_their_mean_with_its_own_squared_error() -> None:
    draws = np.random.default_rng(3)
    actual, one, two = draws.normal(size=(3, 40)) * 4 + 2
    both = Number().average_scores(*(scores_of_numbers(each, actual, 1.7) for each in (one, two)))
    expected = scores_of_numbers((one + two) / 2, actual, 1.7)
    assert both.more["predicted"] == pytest.approx(expected.more["predicted"])
    assert both.loss == pytest.approx(expected.loss)
    assert measure(both, ("rmse", "mae"))["rmse"] == pytest.approx(measure(expected, ("rmse",))["rmse"])
    network = average_outputs([torch.from_numpy(one[:, None]), torch.from_numpy(two[:, None])], "identity")
    assert network[:, 0].numpy() == pytest.approx((one + two) / 2)
    assert Number().fit_temperature(both) == 1.0


@pytest.mark.parametrize("metric", ["micro_f1", "loss"])
def test_two_models_of_labels_that_err_apart_are_averaged_and_a_far_better_one_is_not_spoilt(metric: str) -> None:
    outputs = SeveralLabels()

    def draw(skills: tuple[float, float]) -> dict[str, Scores]:
        draws = np.random.default_rng(5)
        actual = (draws.uniform(size=(300, 3)) < 0.3).astype(float)
        logits = [skill * (3 * actual - 1.5 + draws.normal(size=actual.shape)) for skill in skills]
        one, two = (scores_of_labels(1 / (1 + np.exp(-each)), actual, LABELS) for each in logits)
        made = {name: outputs.apply_temperature(each, outputs.fit_temperature(each)) for name, each in (("trained", one), ("probe", two))}
        both = outputs.average_scores(made["trained"], made["probe"])
        return made | {"average": outputs.apply_temperature(both, outputs.fit_temperature(both))}

    assert choose_candidate(draw((1.5, 1.5)), metric) == "average"
    noise = draw((2.0, 2.0))
    noise["probe"] = scores_of_labels(np.full((300, 3), 0.3), noise["trained"].more["actual"], LABELS)
    noise["average"] = outputs.average_scores(noise["trained"], noise["probe"])
    assert choose_candidate(noise, metric) == "trained"


class Read:
    """Rows whose features are known."""

    def __init__(self, rows: int, targets: np.ndarray) -> None:
        self.features = np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
        self.examples = [Example(row, {}, target, Record(row, {}), 1) for row, target in enumerate(targets.tolist())]

    def __call__(self, examples: Any) -> np.ndarray:
        return self.features[[example.index for example in examples]]


def nothing() -> None:
    return None


def fit_on(outputs: Outputs, spec: Any, targets: np.ndarray, most_rows: int = 1000) -> tuple[Any, Read, Any]:
    read, objective = Read(len(targets), targets), spec.open(None, ("text",), "target")
    probe = outputs.fit_probe(read, objective, read.examples[:90], read.examples[90:], most_rows, nothing)
    return probe, read, objective


def standard(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return (rows - seen.mean(0)) * LENGTH / np.sqrt(seen.shape[1]) / seen.std(0)


def test_the_linear_model_of_labels_is_a_logistic_regression_of_scikit_learn_for_each() -> None:
    draws = np.random.default_rng(2)
    targets = (Read(120, np.zeros(120)).features[:, :3] + draws.normal(size=(120, 3)) > 0).astype(float)
    probe, read, _ = fit_on(SeveralLabels(), MultiLabel(labels=LABELS), targets)
    seen, held = (standard(rows, read.features[:90]) for rows in (read.features[:90], read.features[90:]))
    tried = [
        np.stack([LogisticRegression(C=strength, max_iter=300).fit(seen, column).predict_proba(held)[:, 1] for column in targets[:90].T], 1)
        for strength in (0.1, 1.0, 10.0)
    ]
    best = min(tried, key=lambda each: float(scores_of_labels(each, targets[90:], LABELS).loss.sum()))
    assert probe.validation.more["predicted"] == pytest.approx(best, abs=2e-3)
    again = 1 / (1 + np.exp(-(read.features[90:] @ probe.weight.T + probe.bias)))
    assert probe.validation.more["predicted"] == pytest.approx(again, abs=1e-9)
    assert probe.rows == 90
    assert fit_on(SeveralLabels(), MultiLabel(labels=LABELS), targets, 40)[0].rows == 30


def test_the_linear_model_of_numbers_is_the_ridge_regression_of_scikit_learn_in_their_own_unit() -> None:
    draws = np.random.default_rng(2)
    targets = Read(120, np.zeros(120)).features @ draws.normal(size=6) + draws.normal(size=120) * 3 + 10
    probe, read, _ = fit_on(Number(), Regression(mean=10.0, spread=5.0), targets)
    seen, held = (standard(rows, read.features[:90]) for rows in (read.features[:90], read.features[90:]))
    tried = [Ridge(alpha=strength).fit(seen, targets[:90]).predict(held) for strength in (0.1, 1.0, 10.0, 100.0, 1000.0)]
    best = min(tried, key=lambda each: float(((each - targets[90:]) ** 2).sum()))
    assert probe.validation.more["predicted"] == pytest.approx(best, abs=2e-2)
    assert probe.validation.loss == pytest.approx(((probe.validation.more["predicted"] - targets[90:]) / 5) ** 2)


def test_who_has_not_read_the_row_says_the_frequencies_or_the_mean() -> None:
    targets = np.repeat([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], 60, 0)
    read, objective = Read(120, targets), MultiLabel(labels=LABELS).open(None, ("text",), "target")
    prior = SeveralLabels().score_prior(objective, read.examples[:100], read.examples[100:])
    said = np.array([101 / 102, 41 / 102, 1 / 102])
    assert prior.loss == pytest.approx([-np.log([said[0], said[1], 1 - said[2]]).sum()] * 20)
    numbers, objective = Read(120, np.arange(120.0)), Regression(mean=0.0, spread=2.0).open(None, ("text",), "target")
    prior = Number().score_prior(objective, numbers.examples[:100], numbers.examples[100:])
    assert prior.loss == pytest.approx((np.arange(100.0, 120.0) / 2 - 49.5 / 2) ** 2)


def test_what_is_right_and_how_sure_it_is_are_told_of_rows_and_of_their_labels() -> None:
    given = scores_of_labels(np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.3]]), np.array([[1.0, 0, 0], [1, 1, 0]]), LABELS)
    right = SeveralLabels().right_rows(given)
    assert right.tolist() == [True, False]
    assert right.mean() == measure(given, ("exact_match",))["exact_match"]
    each = decisions(given)
    assert each.target is not None and each.probabilities is not None
    assert each.target.tolist() == [1, 0, 0, 1, 1, 0]
    assert each.probabilities[:, 1].tolist() == [0.9, 0.2, 0.1, 0.4, 0.8, 0.3]
    assert each.loss.reshape(2, 3).sum(1) == pytest.approx(given.loss)
    boastful = label(1500, 3.0)[1]
    cooled = SeveralLabels().apply_temperature(boastful, 3.0)
    told = SeveralLabels().describe_calibration(boastful, cooled)
    assert told["log_loss"] == {"before": pytest.approx(boastful.loss.mean()), "after": pytest.approx(cooled.loss.mean())}
    assert told["calibration_error"]["after"] < told["calibration_error"]["before"] / 2
    assert Number().describe_calibration(given, given) == {}
    assert Number().right_rows(given) is None
    classes = scores_of_classes(200, 1.0)
    assert OneClass().right_rows(classes).mean() == measure(classes, ("accuracy",))["accuracy"]
