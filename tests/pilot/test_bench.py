"""A search of somebody else's, over our trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

import luthier
from luthier.core.errors import ExperimentError
from luthier.core.run import Run
from luthier.core.study import Study
from luthier.pilot.bench import Bench
from tests.pilot.test_search import SET, table, weights

__all__ = ["table"]


@pytest.fixture(scope="module")
def made(table: Path, bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return luthier.bench(table, base=str(bases("bert").folder), out=tmp_path_factory.mktemp("bench") / "study", set=SET, space=["optimizer.lr=1e-4..1e-1", "schedule.kind=linear|cosine"])  # fmt: skip


def test_an_optuna_study_drives_trials_prunes_them_and_its_best_becomes_a_run(made: Bench) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3), pruner=optuna.pruners.MedianPruner(2, 0))
    study.optimize(made, 6)
    whole = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    pruned = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(sorted(trial.intermediate_values) == [125, 250, 500, 1000] for trial in whole)
    assert all(len(trial.intermediate_values) < 4 for trial in pruned)
    assert {"optimizer.lr", "schedule.kind"} <= set(study.best_params)
    assert "model.dropout" not in study.best_params  # it was set
    trials = [Study(made.folder).trial(trial.number) for trial in study.trials]
    assert not any(trial.events_named("test_opened") for trial in trials)
    best = luthier.resume(trials[study.best_trial.number].folder, force=True)
    assert best.verdict is not None
    assert len(best.events_named("test_opened")) == 1
    again = luthier.train(best.folder / "experiment.yaml", out=made.folder / "again", force=True)
    assert weights(again) == weights(best)


def test_a_trial_that_was_left_goes_on_where_it_stood(made: Bench) -> None:
    values = {"optimizer.lr": 1e-3, "schedule.kind": "linear"}
    (share, first), *_ = (next(made.curve(values, number)) for number in (100,))
    assert share == 1 / 8
    whole, again = list(made.curve(values, 101)), list(made.curve(values, 100))
    assert whole == again
    assert whole[0] == (share, first)
    steps = [line["step"] for line in Run(made.folder / "trials" / "100").lines("metrics.jsonl") if "tokens" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_a_field_that_does_not_exist_is_named_before_anything_is_made(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="lrr"):
        luthier.bench(table, out=tmp_path / "study", space=["optimizer.lrr=1e-4..1e-1"])
    assert not (tmp_path / "study").exists()
