"""Linear models of several labels and of a number, each as one matrix and bias: where a new head begins, and a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.core.types import Example
from luthier.evaluation.baselines import REGULARISATION, fit_each_strength, logistic_regression, rounding_error, standardizer

MOST_NUMBERS = 1_500_000
"""Training rows times outputs that a linear model is fitted on, about: it takes seconds, not minutes."""

RIDGE = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Strengths of ridge regression on features of equal spread; the validation rows choose."""

Linear = tuple[np.ndarray, np.ndarray]
"""Weight, # (outputs, features), and bias, # (outputs,), in fp64."""
LinearFit = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Callable[[], None], float], Linear]
"""Features and targets of the training rows and of the validation rows, what is called between fits, and how far rounding may move an output
→ weight and bias: `fit_labels`, `fit_number`."""


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


def fit_labels(
    seen: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    expected: np.ndarray,
    poll: Callable[[], None],
    most_error: float = np.inf,
) -> Linear:
    """For each label logistic regression on features of equal spread; the validation rows choose one regularisation for all.

    Args:
        seen: features of the training rows, # (rows, features)
        target: 1 where a training row has the label, 0 where not, # (rows, labels)
        held: features of the validation rows, # (validation rows, features)
        expected: which labels these have, # (validation rows, labels)
        poll: called between fits; it may raise to stop.
        most_error: as `baselines.fit_probe` takes it.
    """
    return _fit_best(lambda rows, strength: logistic_of_labels(rows, target, strength, poll), REGULARISATION, 0.1,
                 lambda logits: float(np.logaddexp(0, np.where(expected >= 0.5, -logits, logits)).sum()), seen, held, most_error)  # fmt: skip


def fit_number(
    seen: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    expected: np.ndarray,
    poll: Callable[[], None],
    most_error: float = np.inf,
) -> Linear:
    """Ridge regression on features of equal spread; the validation rows choose its strength.

    Args:
        seen: features of the training rows, # (rows, features)
        target: their numbers, # (rows, 1)
        held: features of the validation rows, # (validation rows, features)
        expected: their numbers, # (validation rows, 1)
        poll: called between fits; it may raise to stop.
        most_error: as `baselines.fit_probe` takes it.
    """
    return _fit_best(lambda rows, strength: _ridge(rows, target, strength, poll), RIDGE, 10.0,
                 lambda numbers: float(np.square(numbers - expected).sum()), seen, held, most_error)  # fmt: skip


def _fit_best(
    fit: Callable[[np.ndarray, float], Linear],
    strengths: Sequence[float],
    more: float,
    cost: Callable[[np.ndarray], float],
    seen: np.ndarray,
    held: np.ndarray,
    most_error: float,
) -> Linear:
    """The fit with the least cost on the validation rows, for the features as they are."""
    centre, scale = standardizer(seen)
    rows, others = (seen - centre) * scale, (held - centre) * scale

    def fold(one: Linear) -> Linear:
        """A linear model of the features as they are."""
        weight = one[0] * scale
        return weight, one[1] - weight @ centre

    found = fit_each_strength(
        lambda strength: fit(rows, strength), strengths, more, lambda one: rounding_error(*fold(one), seen) <= most_error
    )
    return fold(min(found, key=lambda one: cost(others @ one[0].T + one[1])))


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
