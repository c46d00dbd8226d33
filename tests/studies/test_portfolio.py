"""A portfolio complements: it may leave out the second-best point on average."""

from __future__ import annotations

import numpy as np

from luthier.studies.portfolio import portfolio


def test_the_second_point_is_the_one_that_helps_where_the_first_is_poor() -> None:
    regrets = np.array([[0.1, 0.1, 0.9], [0.1, 0.2, 0.9], [0.6, 0.6, 0.0]])
    assert portfolio(regrets, 2) == [0, 2]
    assert portfolio(regrets, 9) == [0, 2, 1]


def test_the_first_point_is_the_best_on_average_and_no_more_can_only_help() -> None:
    regrets = np.random.default_rng(0).random((7, 40))
    chosen = portfolio(regrets, 10)
    assert chosen[0] == regrets.mean(0).argmin()
    assert len(set(chosen)) == 10
    reached = [regrets[:, chosen[: count + 1]].min(1).mean() for count in range(10)]
    assert (np.diff(reached) <= 0).all()
