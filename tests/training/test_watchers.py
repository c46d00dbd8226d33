"""What the validation rows say while a run lasts, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.core.interfaces import Silent
from luthier.core.run import Run
from luthier.training import watchers
from luthier.training.train import Fit
from luthier.training.watchers import Signals
from tests.training.test_steps import work_for

LOOKS = [0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.8, 0.7, 0.7, 0.7, 0.7]
"""Accuracy after each step of twelve: a stroke of luck at first, then what the fall of the rate brings."""


def looked_at(
    bases: Any,
    rows: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    stop: int = 12,
    losses: Sequence[float] = (1.0,) * 12,
    **schedule: Any,
) -> Fit:
    changes = {f"schedule__{name}": value for name, value in schedule.items()}
    work = work_for(bases, rows, "classification", training__steps=12, training__evaluations_per_epoch=1000.0, training__patience=patience, **changes)  # fmt: skip
    run = Run(folder) if folder.exists() else Run.create(folder)
    with Signals() as signals:
        fit = Fit(run, work, Silent(), signals)
        monkeypatch.setattr(watchers, "measure", lambda scores, names: {"accuracy": LOOKS[fit.done - 1], "loss": losses[fit.done - 1]})
        fit.advance(stop)
        fit.keep()
    return fit


def looks_of(fit: Fit) -> list[int]:
    return [line["step"] for line in fit.run.lines("metrics.jsonl") if "evaluation" in line]


def test_a_run_stops_when_nothing_gets_better_and_keeps_the_best(bases, records, tmp_path, monkeypatch) -> None:
    fit = looked_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (4, 1)
    assert fit.over


def test_where_the_rate_stays_before_it_falls_no_look_before_the_fall_is_the_best_or_stops_the_run(
    bases, records, tmp_path, monkeypatch
) -> None:
    fit = looked_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="wsd", decay=0.5)
    assert fit.evaluator.best == {"step": 8, "accuracy": 0.8, "loss": 1.0}
    assert fit.done == 11  # three looks after the best
    assert looks_of(fit) == [2, 4, 6, 7, 8, 9, 10, 11]
    fit = looked_at(bases, records, tmp_path / "all", monkeypatch, 100, kind="wsd", decay=0.5)
    assert (fit.done, fit.evaluator.best["step"]) == (12, 8)


def test_of_equal_looks_the_later_is_kept_and_patience_does_not_begin_anew(bases, records, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.training.test_watchers.LOOKS", [0.5, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    fit = looked_at(bases, records, tmp_path / "run", monkeypatch, 4, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (6, 6)
    losses = [1.0, 0.9, 0.8, 0.9, 0.7, 0.75, 0.6, 0.65, 0.65, 0.65, 0.65, 0.65]  # a lower loss at the same accuracy: it still gets on
    fit = looked_at(bases, records, tmp_path / "on", monkeypatch, 4, losses=losses, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (11, 11)


def test_a_run_that_is_interrupted_before_the_fall_has_no_best_yet(bases, records, tmp_path, monkeypatch) -> None:
    begun = looked_at(bases, records, tmp_path / "run", monkeypatch, 3, stop=5, kind="wsd", decay=0.5)
    assert (begun.done, begun.evaluator.best, begun.over) == (5, {"step": 0}, False)
    fit = looked_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="wsd", decay=0.5)
    assert (fit.done, fit.evaluator.best["step"]) == (11, 8)
