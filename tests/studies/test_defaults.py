"""Defaults fit each other."""

from __future__ import annotations

from luthier.studies.defaults import EPOCHS, LOOKS, ROWS_A_CLASS


def test_every_default_run_is_looked_at_often_enough_to_choose_weights_and_not_so_often_that_looks_cost_a_tenth() -> None:
    for epochs in {*(epochs for rows in EPOCHS.values() for _, epochs, _ in rows), ROWS_A_CLASS[1]}:
        looks, patience = next((looks, patience) for most, looks, patience in LOOKS if epochs <= most)
        assert 4 <= epochs * looks <= 12
        assert patience < epochs * looks or epochs * looks <= 6  # a run that stops getting better can end before its plan does
