"""The baselines: logistic regression, whatever the columns look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from luthier.core.types import Example, Record
from luthier.evaluation import baselines
from luthier.evaluation.baselines import LENGTH, REGULARISATION, linear_probe_baseline

CLASSES = 3


def features(examples: Sequence[Example]) -> np.ndarray:
    """Columns of which three tell the classes a little, and one says a thousand times as much of every row, and always the same."""
    found = np.stack([np.random.default_rng(example.index).normal(size=8) for example in examples])
    found[:, 0] += 4000
    for row, example in enumerate(examples):
        found[row, 1 + example.target] += 3
    return found.astype(np.float32)


def rows(count: int, first: int = 0) -> list[Example]:
    return [Example(number, {"tokens": [1]}, number % CLASSES, Record(number, {}), 1) for number in range(first, first + count)]


def test_the_base_is_scikit_learns_logistic_regression_on_columns_of_equal_spread() -> None:
    train, validation, test = rows(120), rows(60, 1000), rows(90, 2000)
    rival = linear_probe_baseline("small", features, train, validation, CLASSES)
    seen, held, sealed = (features(part) for part in (train, validation, test))
    scale = (LENGTH / np.sqrt(8)) ** 2  # a longer row is a weaker penalty
    pipes = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength * scale, max_iter=300)).fit(seen, [row.target for row in train])
        for strength in REGULARISATION
    ]
    losses = [-np.log(pipe.predict_proba(held)[np.arange(60), [row.target for row in validation]]).mean() for pipe in pipes]
    found = rival.score(test)
    assert rival.name == "small, frozen + logistic regression"
    assert found.probabilities is not None
    theirs = pipes[int(np.argmin(losses))].predict_proba(sealed)
    assert found.probabilities == pytest.approx(theirs, abs=1e-2)  # both stop when they are near enough
    assert float((found.probabilities.argmax(1) == found.target).mean()) > 0.9


def test_rows_that_are_scored_in_parts_have_the_scores_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rival, test = linear_probe_baseline("small", features, rows(120), rows(60, 1000), CLASSES), rows(90, 2000)
    whole = rival.score(test)
    monkeypatch.setattr(baselines, "TOGETHER", 7)
    parts = rival.score(test)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert np.array_equal(parts.target, whole.target)


@pytest.mark.parametrize("rare", [0, 3])
def test_of_many_rows_a_part_is_fitted_on_and_no_class_is_lost(rare: int) -> None:
    asked: list[int] = []

    def counted(examples: Sequence[Example]) -> np.ndarray:
        asked.append(len(examples))
        return features(examples)

    train = [Example(number, {"tokens": [1]}, int(number >= 3000 - rare), Record(number, {}), 1) for number in range(3000)]
    held = [Example(number, {"tokens": [1]}, number % 2, Record(number, {}), 1) for number in range(5000, 5040)]
    found = linear_probe_baseline("small", counted, train, held, 2, 1000).score(held)
    assert asked[0] in (1000, 1001)
    assert found.probabilities is not None
    assert np.isfinite(found.loss).all()
    told = found.probabilities[1::2, 1].mean() - found.probabilities[::2, 1].mean()
    assert told > 0.001 if rare else told == 0  # rows of one class are no trouble
