"""What the outputs of a head mean: one class a row, several labels, or a number; and so how a linear probe, a temperature and an average are made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.types import Example, Link, Scores
from luthier.evaluation import baselines, calibrate, label_thresholds
from luthier.evaluation.baselines import Probe
from luthier.evaluation.calibrate import SURE, label_losses, log_odds
from luthier.evaluation.linear_heads import MOST_NUMBERS, LinearFit, fit_labels, fit_number, fit_objective
from luthier.evaluation.metrics import calibration, measure

Read = Callable[[Sequence[Example]], np.ndarray]
"""Rows → what the untouched base makes of them, # (examples, features)"""


class Outputs(ABC):
    """What a family's head says of a row, where a linear model of what the untouched base says is a candidate to ship."""

    link: Link
    """What makes of the outputs what is said."""
    probe: str
    """What the linear model is, for a person."""
    calibrated: bool = True
    """Whether a temperature is fitted."""
    abstains: bool = False
    """Whether a row's answer is one class, which can be left out where the model is not sure of it."""
    untold: str
    """The claim where the linear model does no better than who has not read the row."""

    def count(self, objective: Any) -> int:
        """How many outputs there are.

        Args:
            objective: as the run opened it.
        """
        return len(objective.spec.labels)

    @abstractmethod
    def fit_probe(
        self, read: Read, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
    ) -> Probe:
        """Fit the linear model.

        Args:
            read: what the untouched base makes of rows.
            objective: as the run opened it.
            train: rows to fit on; of more than `most_rows` a part.
            validation: rows that choose the regularisation.
            most_rows: training rows to fit on, about.
            poll: called between fits; it may raise to stop.
        """

    @abstractmethod
    def score_prior(self, objective: Any, train: Sequence[Example], validation: Sequence[Example]) -> Scores:
        """What somebody loses on the validation rows who knows the training targets and has not read the row."""

    def fit_temperature(self, scores: Scores) -> float:
        """The temperature that makes held-out rows likeliest; 1 where none is fitted."""
        return 1.0

    def apply_temperature(self, scores: Scores, temperature: float) -> Scores:
        """What is said with the outputs divided by the temperature: above 1 less sure, below 1 surer."""
        return scores

    @abstractmethod
    def average_scores(self, one: Scores, other: Scores) -> Scores:
        """What two models say together, of the same rows in the same order: the mean of their probabilities, or of their numbers."""

    def fits_thresholds(self, objective: Any) -> bool:
        """Whether the experiment asks for thresholds that are fitted on the validation rows.

        Args:
            objective: as the run opened it.
        """
        return False

    def fit_thresholds(self, scores: Scores) -> tuple[float, ...]:
        """From which probability each label is said, in their order; asked for where `fits_thresholds`.

        Args:
            scores: of a candidate on the validation rows, at its temperature.
        """
        raise NotImplementedError

    def right_rows(self, scores: Scores) -> np.ndarray | None:
        """Which rows are right, # (rows,); None where nothing is right or wrong."""
        return None

    def confidence(self, scores: Scores) -> np.ndarray | None:
        """How sure it is of its answer about each row, # (rows,); None where no answer can be left out."""
        return None

    def describe_calibration(self, before: Scores, after: Scores) -> dict[str, Any]:
        """What the report shows of how sure it is, as data; nothing where there are no probabilities.

        Args:
            before: on the test rows, without a temperature.
            after: on the test rows, as it ships.
        """
        return {}


class OneClass(Outputs):
    """One class of several a row: softmax."""

    link = "softmax"
    abstains = True
    probe = "logistic regression"
    untold = "the labels cannot be told from the text: a classifier on the base's features does no better than the class shares"

    def fit_probe(
        self, read: Read, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
    ) -> Probe:
        """Logistic regression over the classes."""
        return baselines.fit_probe(read, train, validation, self.count(objective), most_rows)

    def score_prior(self, objective: Any, train: Sequence[Example], validation: Sequence[Example]) -> Scores:
        """The training rows' shares of the classes."""
        return baselines.majority_baseline(train, validation, self.count(objective)).validation

    def fit_temperature(self, scores: Scores) -> float:
        """One for all classes."""
        return calibrate.fit_temperature(scores)

    def apply_temperature(self, scores: Scores, temperature: float) -> Scores:
        """In every logit."""
        return calibrate.apply_temperature(scores, temperature)

    def average_scores(self, one: Scores, other: Scores) -> Scores:
        """The mean of the probabilities."""
        return calibrate.average_scores(one, other)

    def right_rows(self, scores: Scores) -> np.ndarray:
        """Where the likeliest class is the right one."""
        assert scores.probabilities is not None
        return scores.probabilities.argmax(1) == scores.target

    def confidence(self, scores: Scores) -> np.ndarray:
        """The probability of the likeliest class."""
        assert scores.probabilities is not None
        return scores.probabilities.max(1)

    def describe_calibration(self, before: Scores, after: Scores) -> dict[str, Any]:
        """The calibration error."""
        return {"calibration_error": _calibration_errors(before, after)}


class SeveralLabels(Outputs):
    """Any number of labels a row, each decided by itself: a sigmoid each."""

    link = "sigmoid"
    probe = "logistic regression for each label"
    untold = "the labels cannot be told from the text: a linear model of the base's features does no better than how frequent each label is"

    def fit_probe(
        self, read: Read, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
    ) -> Probe:
        """Logistic regression for each label."""
        most = min(most_rows, max(MOST_NUMBERS // self.count(objective), 1))
        return _fit_probe(fit_labels, read, objective, train, validation, most, poll)

    def score_prior(self, objective: Any, train: Sequence[Example], validation: Sequence[Example]) -> Scores:
        """The training rows' shares of the labels."""
        seen, held = (objective.targets(rows).double().numpy() for rows in (train, validation))
        there = seen.sum(0) + 1
        return _of_logits(np.tile(np.log(there / (len(seen) + 2 - there)), (len(held), 1)), held)

    def fit_temperature(self, scores: Scores) -> float:
        """One for all labels: it makes what validation rows have and have not likeliest."""
        logits, actual = log_odds(scores.more["predicted"]), scores.more["actual"]
        return calibrate.likeliest_temperature(lambda rows, heat: label_losses(logits[rows] / heat, actual[rows]).sum(1), len(actual))

    def apply_temperature(self, scores: Scores, temperature: float) -> Scores:
        """In the log-odds of every label; what is likelier than not stays so."""
        if temperature == 1.0:
            return scores
        found = _of_logits(log_odds(scores.more["predicted"]) / temperature, scores.more["actual"])
        return replace(scores, loss=found.loss, more={**scores.more, "predicted": found.more["predicted"]})

    def average_scores(self, one: Scores, other: Scores) -> Scores:
        """The mean of each label's probabilities."""
        mean = (one.more["predicted"] + other.more["predicted"]) / 2
        return replace(one, loss=_of_logits(log_odds(mean), one.more["actual"]).loss, more={**one.more, "predicted": mean})

    def fits_thresholds(self, objective: Any) -> bool:
        """Where `objective.thresholds` is fitted."""
        return objective.spec.thresholds == "fitted"

    def fit_thresholds(self, scores: Scores) -> tuple[float, ...]:
        """What gives these rows the best F1 over all labels, the same for each."""
        found = label_thresholds.fit_thresholds(scores.more["predicted"], scores.more["actual"] >= 0.5)
        return tuple(round(float(each), 4) for each in found)

    def right_rows(self, scores: Scores) -> np.ndarray:
        """Where no label is missing and none too many."""
        return (label_thresholds.predicted_labels(scores) == (scores.more["actual"] >= 0.5)).all(1)

    def describe_calibration(self, before: Scores, after: Scores) -> dict[str, Any]:
        """The calibration error of the decisions, one a row and label, and the log loss of a row."""
        losses = {when: measure(scores, ("loss",))["loss"] for when, scores in (("before", before), ("after", after))}
        return {
            "calibration": calibration(decisions(after)),
            "decided": "labels of rows",
            "calibration_error": _calibration_errors(decisions(before), decisions(after)),
            "log_loss": losses,
        }


class Number(Outputs):
    """A number a row: the output as it is, in standard deviations above the mean."""

    link = "identity"
    probe = "ridge regression"
    calibrated = False
    untold = "the numbers cannot be told from the text: a linear model of the base's features does no better than the mean"

    def count(self, objective: Any) -> int:
        """One."""
        return 1

    def fit_probe(
        self, read: Read, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
    ) -> Probe:
        """Ridge regression."""
        return _fit_probe(fit_number, read, objective, train, validation, most_rows, poll)

    def score_prior(self, objective: Any, train: Sequence[Example], validation: Sequence[Example]) -> Scores:
        """The mean of the training rows."""
        seen, held = (objective.targets(rows).double().numpy() for rows in (train, validation))
        return Scores((held - seen.mean()) ** 2, np.ones(len(held)))

    def average_scores(self, one: Scores, other: Scores) -> Scores:
        """The mean of the numbers."""
        actual, mean = one.more["actual"], (one.more["predicted"] + other.more["predicted"]) / 2
        gaps = [np.sqrt(scores.loss) * np.sign(scores.more["predicted"] - actual) for scores in (one, other)]
        return replace(one, loss=((gaps[0] + gaps[1]) / 2) ** 2, more={**one.more, "predicted": mean})


def decisions(scores: Scores) -> Scores:
    """Each label of each row as a row of two classes: it has it not, or it has it.

    Args:
        scores: of several labels.
    """
    likely = scores.more["predicted"].ravel()
    target = (scores.more["actual"].ravel() >= 0.5).astype(int)
    loss = -np.log(np.maximum(np.where(target, likely, 1 - likely), SURE))
    return Scores(loss, np.ones(len(target)), target, np.stack([1 - likely, likely], 1))


def _fit_probe(
    fit: LinearFit, read: Read, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
) -> Probe:  # fmt: skip
    (weight, bias), rows, outputs = fit_objective(fit, read, objective, train, validation, most_rows, poll)
    return Probe(weight, bias, rows, objective.scores_of(outputs, validation))


def _calibration_errors(before: Scores, after: Scores) -> dict[str, float]:
    """The calibration error without a temperature, with it, and what a perfectly calibrated model would show."""
    errors = {when: measure(each, ("calibration_error",))["calibration_error"] for when, each in (("before", before), ("after", after))}
    return errors | {"by_chance": calibrate.chance_calibration_error(after)}


def _of_logits(logits: np.ndarray, actual: np.ndarray) -> Scores:
    from scipy.special import expit

    return Scores(label_losses(logits, actual).sum(1), np.ones(len(logits)), more={"predicted": expit(logits), "actual": actual})
