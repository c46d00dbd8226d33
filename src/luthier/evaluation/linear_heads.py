"""Linear models of several labels and of a number, each as one matrix and bias: where a new head begins, and a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.types import Example
from luthier.evaluation.baselines import REGULARISATION, fit_each_strength, logistic_regression, standardizer, within_rounding

MOST_NUMBERS = 1_500_000
"""Training rows times outputs that a linear model is fitted on, about: it takes seconds, not minutes."""

RIDGE = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Strengths of ridge regression on features of equal spread; the validation rows choose."""

Linear = tuple[np.ndarray, np.ndarray]
"""Weight, # (outputs, features), and bias, # (outputs,), in fp64."""


@dataclass(frozen=True)
class LinearFit:
    """A linear model on features of equal spread, whose regularisation the validation rows choose: `fit_labels`, `fit_number`.

    Args:
        fit: features, targets, a strength, and what is called between fits → a model.
        strengths: of the regularisation that are tried.
        more: what a strength is multiplied by to regularise more.
        cost: outputs for the validation rows, and what was expected → what is to be small.
    """

    fit: Callable[[Any, np.ndarray, float, Callable[[], None]], Linear]
    strengths: Sequence[float]
    more: float
    cost: Callable[[np.ndarray, np.ndarray], float]

    def __call__(
        self,
        seen: np.ndarray,
        target: np.ndarray,
        held: np.ndarray,
        expected: np.ndarray,
        poll: Callable[[], None],
        most_error: float = np.inf,
    ) -> Linear:
        """The model with the least cost on the validation rows, for the features as they are.

        Args:
            seen: features of the training rows, # (rows, features)
            target: what these are to give, # (rows, outputs)
            held: features of the validation rows, # (validation rows, features)
            expected: what these are to give, # (validation rows, outputs)
            poll: called between fits; it may raise to stop.
            most_error: as `baselines.fit_probe` takes it.
        """
        centre, scale = standardizer(seen)
        rows, others = (seen - centre) * scale, (held - centre) * scale

        def fold(one: Linear) -> Linear:
            """A linear model of the features as they are."""
            weight = one[0] * scale
            return weight, one[1] - weight @ centre

        suits = within_rounding(most_error, seen)
        found = fit_each_strength(
            lambda strength: self.fit(rows, target, strength, poll), self.strengths, self.more, lambda one: suits(*fold(one))
        )
        return fold(min(found, key=lambda one: self.cost(others @ one[0].T + one[1], expected)))


def fit_objective(
    fit: LinearFit,
    features: Callable[[Sequence[Example]], np.ndarray],
    objective: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    most_rows: int,
    poll: Callable[[], None],
    most_error: float = np.inf,
) -> tuple[Linear, int, np.ndarray]:
    """A linear model of what an objective's loss compares outputs with.

    Args:
        fit: `fit_labels` or `fit_number`.
        features: rows → what is known of them, # (examples, features)
        objective: knows the targets.
        train: rows to fit on; of more than `most_rows` every second, every third, and so on.
        validation: rows that choose the regularisation.
        most_rows: training rows to fit on at most.
        poll: called between fits; it may raise to stop.
        most_error: as `baselines.fit_probe` takes it.

    Returns:
        Weight and bias, the rows that it was fitted on, and what it gives for the validation rows, # (validation rows, outputs)
    """
    some = train[:: -(-len(train) // most_rows)]
    seen, held = (objective.targets(rows).double().numpy().reshape(len(rows), -1) for rows in (some, validation))
    known, others = features(some), features(validation)
    weight, bias = fit(known, seen, others, held, poll, most_error)
    return (weight, bias), len(some), others @ weight.T + bias


def logistic_of_labels(features: Any, target: np.ndarray, strength: float, poll: Callable[[], None]) -> Linear:
    """For each label logistic regression; one that all rows have, or none, has its log-odds as bias and no weights.

    Args:
        features: dense or sparse, # (rows, features)
        target: 1 where a row has the label, 0 where not, # (rows, labels)
        strength: inverse regularisation.
        poll: called before each label; it may raise to stop.
    """
    there = target.sum(0)
    weight, bias = np.zeros((target.shape[1], features.shape[1])), np.log((there + 1) / (len(target) - there + 1))
    for label in np.flatnonzero((there > 0) & (there < len(target))):
        poll()
        model = logistic_regression(features, target[:, label], strength)
        weight[label], bias[label] = model.coef_[0], model.intercept_[0]
    return weight, bias


def _ridge(rows: np.ndarray, target: np.ndarray, strength: float, poll: Callable[[], None]) -> Linear:
    from sklearn.linear_model import Ridge

    poll()
    model = Ridge(alpha=strength).fit(rows.astype(np.float64), target)
    return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)


fit_labels = LinearFit(
    logistic_of_labels,
    REGULARISATION,
    0.1,
    lambda logits, expected: float(np.logaddexp(0, np.where(expected >= 0.5, -logits, logits)).sum()),
)
"""For each label logistic regression, one regularisation for all; targets are 1 where a row has the label, and 0 where not."""
fit_number = LinearFit(_ridge, RIDGE, 10.0, lambda numbers, expected: float(np.square(numbers - expected).sum()))
"""Ridge regression on one number a row."""
