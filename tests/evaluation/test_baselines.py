"""The rivals: the untouched base gets its best floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from luthier.core.types import Example, Record
from luthier.evaluation.baselines import CHOOSING, LENGTH, REGULARISATION, frozen
from luthier.models.encode import View

CLASSES = 3


class Planted:
    """A base on one of whose floors the classes lie apart; on the others there is noise, and one column that drowns the rest."""

    views = (View(2, "mean"), View(3, "last"), View(4, "mean"))

    def __init__(self, where: View) -> None:
        self.where, self.asked = where, []

    def __call__(self, examples: Sequence[Example], wanted: Sequence[View]) -> np.ndarray:
        self.asked.append((len(examples), tuple(wanted)))
        found = np.random.default_rng(7).normal(size=(len(examples), len(self.views), 8))
        found[..., 0] += 4000  # a sink: the same in all rows
        for row, example in enumerate(examples):
            found[row, self.views.index(self.where), 1 + example.target] += 3
        return found[:, [self.views.index(view) for view in wanted]].astype(np.float32)


def rows(count: int) -> list[Example]:
    return [Example(number, [1], number % CLASSES, Record(number, {}), {}) for number in range(count)]


@pytest.mark.parametrize("where", Planted.views)
def test_the_floor_that_tells_the_classes_is_found_and_named(where: View) -> None:
    rival = frozen("small", Planted(where), rows(120), rows(60), CLASSES)
    assert rival.name == f"small, frozen at block {where.floor} of 4{', last token' * (where.pooling == 'last')} + logistic regression"
    found = rival.score(rows(90))
    assert found.target is not None
    assert found.probabilities is not None
    assert float((found.probabilities.argmax(1) == found.target).mean()) > 0.9


def test_it_is_scikit_learns_logistic_regression_on_columns_of_equal_spread() -> None:
    base, train, validation, test = Planted(Planted.views[1]), rows(120), rows(60), rows(90)
    rival = frozen("small", base, train, validation, CLASSES)
    seen, held, sealed = (base(part, Planted.views[1:2])[:, 0] for part in (train, validation, test))
    scale = (LENGTH / np.sqrt(8)) ** 2  # a longer row is a weaker penalty
    pipes = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength * scale, max_iter=300)).fit(seen, [row.target for row in train])
        for strength in REGULARISATION
    ]
    losses = [-np.log(pipe.predict_proba(held)[np.arange(60), [row.target for row in validation]]).mean() for pipe in pipes]
    found = rival.score(test)
    assert found.probabilities is not None
    assert found.probabilities == pytest.approx(
        pipes[int(np.argmin(losses))].predict_proba(sealed), abs=1e-2
    )  # both stop when they are near enough


def test_of_many_rows_a_part_chooses_the_floor_and_the_sealed_rows_are_read_on_that_one_alone() -> None:
    base = Planted(Planted.views[0])
    rival = frozen("small", base, rows(2 * CHOOSING), rows(60), CLASSES)
    rival.score(rows(90))
    asked = base.asked[0][0]
    assert CHOOSING <= asked <= CHOOSING + CLASSES
    assert base.asked == [(asked, base.views), (60, base.views), (2 * CHOOSING, base.views[:1]), (90, base.views[:1])]


@pytest.mark.parametrize("rare", [0, 3])
def test_a_class_that_few_of_many_rows_have_is_not_lost_and_rows_of_one_class_are_no_trouble(rare: int) -> None:
    base = Planted(Planted.views[0])
    train = [Example(number, [1], int(number >= 3000 - rare), Record(number, {}), {}) for number in range(3000)]
    held = [Example(number, [1], number % 2, Record(number, {}), {}) for number in range(40)]
    found = frozen("small", base, train, held, 2).score(held)
    assert found.probabilities is not None
    assert np.isfinite(found.loss).all()
    told = found.probabilities[1::2, 1].mean() - found.probabilities[::2, 1].mean()
    assert told > 0.001 if rare else told == 0
