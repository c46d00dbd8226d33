"""What the validation rows say while a run lasts, and what is made of it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import Stopped
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.training import watchers
from luthier.training.train import Fit
from luthier.training.watchers import Signals
from tests.training.test_steps import work_for

LOOKS = [0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.8, 0.7, 0.7, 0.7, 0.7]
"""Accuracy after each step of twelve: a stroke of luck at first, then what the fall of the rate brings."""


def look_at(
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
        fit = Fit(run, work, NullReporter(), signals)
        monkeypatch.setattr(watchers, "measure", lambda scores, names: {"accuracy": LOOKS[fit.done - 1], "loss": losses[fit.done - 1]})
        fit.advance(stop)
        fit.save_checkpoint()
    return fit


def looks_of(fit: Fit) -> list[int]:
    return [line["step"] for line in fit.run.lines("metrics.jsonl") if "evaluation" in line]


def test_a_run_stops_when_nothing_gets_better_and_keeps_the_best(bases, records, tmp_path, monkeypatch) -> None:
    fit = look_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (4, 1)
    assert fit.over


def test_where_the_rate_stays_before_it_falls_no_look_before_the_fall_is_the_best_or_stops_the_run(
    bases, records, tmp_path, monkeypatch
) -> None:
    fit = look_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="wsd", decay=0.5)
    assert fit.evaluator.best == {"step": 8, "accuracy": 0.8, "loss": 1.0}
    assert fit.done == 11  # three looks after the best
    assert looks_of(fit) == [2, 4, 6, 7, 8, 9, 10, 11]
    fit = look_at(bases, records, tmp_path / "all", monkeypatch, 100, kind="wsd", decay=0.5)
    assert (fit.done, fit.evaluator.best["step"]) == (12, 8)


def test_of_equal_looks_the_later_is_kept_and_patience_does_not_begin_anew(bases, records, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.training.test_watchers.LOOKS", [0.5, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    fit = look_at(bases, records, tmp_path / "run", monkeypatch, 4, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (6, 6)
    losses = [1.0, 0.9, 0.8, 0.9, 0.7, 0.75, 0.6, 0.65, 0.65, 0.65, 0.65, 0.65]  # a lower loss at the same accuracy: it still gets on
    fit = look_at(bases, records, tmp_path / "on", monkeypatch, 4, losses=losses, kind="linear")
    assert (fit.done, fit.evaluator.best["step"]) == (11, 11)


def test_a_run_that_is_interrupted_before_the_fall_has_no_best_yet(bases, records, tmp_path, monkeypatch) -> None:
    begun = look_at(bases, records, tmp_path / "run", monkeypatch, 3, stop=5, kind="wsd", decay=0.5)
    assert (begun.done, begun.evaluator.best, begun.over) == (5, {"step": 0}, False)
    fit = look_at(bases, records, tmp_path / "run", monkeypatch, 3, kind="wsd", decay=0.5)
    assert (fit.done, fit.evaluator.best["step"]) == (11, 8)


def test_the_first_signal_stops_the_second_waits_and_the_third_ends_at_once() -> None:
    said: list[str] = []
    with Signals(said.append) as signals:
        signal.raise_signal(signal.SIGINT)
        assert said == ["stopping at the next safe place, in seconds; twice more stops at once"]
        signal.raise_signal(signal.SIGINT)
        assert len(said) == 1
        with pytest.raises(Stopped) as stopped:
            signals.poll()
        assert not stopped.value.at_once
        with pytest.raises(Stopped) as forced:
            signal.raise_signal(signal.SIGINT)
        assert forced.value.at_once


def test_a_signal_right_after_a_stop_means_the_same_stop_and_a_later_one_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):
            with Signals():
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        late: Any = signal.getsignal(signal.SIGINT)
        assert late.before is signal.default_int_handler  # however often it was stopped
        monkeypatch.setattr(watchers, "SAME_STOP_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_watcher_sees_the_last_evaluation_also_after_a_resume(bases, records, tmp_path) -> None:
    work = work_for(bases, records, "classification", training__steps=12, training__evaluations_per_epoch=1.0)
    seen: dict[int, Any] = {}
    run = Run.create(tmp_path / "run")
    fit = Fit(run, work, NullReporter(), Signals(), [lambda step: seen.update({step.number: step.evaluation})])
    every = fit.evaluator.schedule.every
    assert 1 < every < 6
    fit.advance(every + 1)
    fit.save_checkpoint()
    assert seen[1] is None
    assert seen[every]["step"] == seen[every + 1]["step"] == every
    assert {"loss", "accuracy"} <= set(seen[every])
    again: dict[int, Any] = {}
    work = work_for(bases, records, "classification", training__steps=12, training__evaluations_per_epoch=1.0)
    Fit(run, work, NullReporter(), Signals(), [lambda step: again.update({step.number: step.evaluation})]).advance(every + 2)
    assert again == {every + 2: seen[every]}


def test_a_watcher_ends_the_training_and_the_last_step_is_evaluated(bases, records, tmp_path) -> None:
    for kind in ("linear", "wsd"):
        work = work_for(bases, records, "classification", training__steps=12, training__evaluations_per_epoch=1.0, schedule__kind=kind)
        fit = Fit(Run.create(tmp_path / kind), work, NullReporter(), Signals(), [lambda step: step.stop() if step.number == 5 else None])
        best = fit.finish()
        assert fit.done == 5
        assert best["step"] in looks_of(fit)
        assert looks_of(fit)[-1] == 5
        assert [(event["step"], event["total"]) for event in fit.run.events_named("stopped_by_watcher")] == [(5, 12)]


def test_a_run_that_a_watcher_has_ended_does_not_go_on_when_it_is_resumed(bases, records, tmp_path) -> None:
    def make(folder: str) -> Run:
        return Run(tmp_path / folder) if (tmp_path / folder).exists() else Run.create(tmp_path / folder)

    def fit(folder: str, *more: Any) -> Fit:
        work = work_for(bases, records, "classification", training__steps=12, training__evaluations_per_epoch=1.0)
        return Fit(make(folder), work, NullReporter(), Signals(), more)

    straight = fit("straight", lambda step: step.stop() if step.number == 5 else None)
    straight.finish()
    first = fit("killed")
    first.advance(3)
    first.save_checkpoint()
    first.run.event("stopped_by_watcher", step=5, total=12)  # killed right after it was written down, and before anything else was
    second = fit("killed")
    second.finish()
    assert second.done == 5
    assert (second.run.folder / "metrics.jsonl").read_bytes() == (straight.run.folder / "metrics.jsonl").read_bytes()


def test_an_exception_in_a_watcher_keeps_what_was_done_and_names_the_folder(bases, records, tmp_path) -> None:
    def careless(step: Any) -> None:
        if step.number == 4:
            raise ZeroDivisionError

    work = work_for(bases, records, "classification", training__steps=12)
    run = Run.create(tmp_path / "run")
    with pytest.raises(ZeroDivisionError) as problem:
        Fit(run, work, NullReporter(), Signals(), [careless]).finish()
    assert f"luthier resume {run.folder}" in problem.value.__notes__[0]
    work = work_for(bases, records, "classification", training__steps=12)
    assert Fit(run, work, NullReporter(), Signals()).done == 4
