"""A time budget is watched while a run trains."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.errors import Stopped
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.types import Step
from luthier.optim.schedules import Constant, Cosine, Cut, Linear, WarmupStableDecay, progress, share_done, valid_cuts
from luthier.training.deadline import TimeLimit, cuts_of, fitting_cut
from luthier.training.train import Fit
from luthier.training.watchers import Signals
from tests.training.test_steps import work_for


class SlowClock:
    """Seconds that pass with the steps of a run: some at first, more from one step on."""

    def __init__(self, quick: float, slow: float, since: int) -> None:
        self.quick, self.slow, self.since = quick, slow, since
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self, step: Step) -> None:
        self.now += self.slow if step.number >= self.since else self.quick


def train(
    bases: Any, records: Any, folder: Path, clock: SlowClock | None = None, budget: float = 100.0, stop: int = 0, **changes: Any
) -> tuple[Run, Fit, dict[str, torch.Tensor] | None]:
    """A run of 60 steps, stopped after one of them where that is asked for."""
    run = Run(folder) if folder.exists() else Run.create(folder)
    work = work_for(
        bases,
        records,
        "classification",
        **{"training__steps": 60, "model__dropout": 0.1, "training__checkpoint_seconds": 0.0, "training__patience": 1000} | changes,
    )
    limit = None if clock is None else TimeLimit(budget, clock, closing=10.0, step=1.0, evaluation=0.0)

    def halt(step: Step) -> None:
        if step.number == stop:
            raise Stopped(15)

    fit = Fit(run, work, NullReporter(), Signals(), [halt], limit)
    if clock is not None:
        fit.watchers.insert(0, clock.step)  # the time passes in the step, before anybody looks at it
    try:
        fit.finish()
    except Stopped:
        return run, fit, None
    return run, fit, {name: master.clone() for name, master in work.masters.weights().items()}


@pytest.fixture(scope="module")
def late(bases: Any, records: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, torch.Tensor]]:
    """A run that became slow and was cut, and the weights it ended with."""
    run, _, ended = train(bases, records, tmp_path_factory.mktemp("late") / "whole", SlowClock(1.0, 3.0, 20))
    assert ended is not None
    return run, ended


@pytest.fixture(scope="module")
def plain(bases: Any, records: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, torch.Tensor]]:
    """A run that nobody timed, and the weights it ended with."""
    run, _, ended = train(bases, records, tmp_path_factory.mktemp("plain") / "plain")
    assert ended is not None
    return run, ended


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_after_a_cut_the_rate_falls_on_a_straight_line_to_zero_at_the_new_end() -> None:
    schedule, cuts = Linear(warmup=0.1), [Cut(40, 60)]
    before = schedule.factor(share_done(40, 100))
    for step in range(40):
        assert progress(schedule, step, 100, cuts) == (share_done(step, 100), schedule.factor(share_done(step, 100)))
    for step in range(40, 60):
        assert progress(schedule, step, 100, cuts)[1] == pytest.approx(before * (1 - (step - 39) / 21))
    assert progress(schedule, 59, 100, cuts)[1] < 0.04
    assert progress(schedule, 59, 100, cuts)[0] == pytest.approx(1, abs=0.05)  # so that gradual unfreezing comes to its end


@pytest.mark.parametrize("schedule", [Constant(), Linear(), Cosine(), WarmupStableDecay(), WarmupStableDecay(until=0.75)])
@pytest.mark.parametrize("cuts", [[Cut(50, 70)], [Cut(30, 58), Cut(45, 52)], [Cut(4, 20)]])
def test_no_cut_lets_the_rate_jump_or_rise_above_its_schedule(schedule: Any, cuts: list[Cut]) -> None:
    factors = [progress(schedule, step, 100, cuts)[1] for step in range(cuts[-1].total)]
    for step, factor in enumerate(factors):
        assert 0 < factor <= schedule.factor(share_done(step, 100)) + 1e-12
    assert all(abs(one - two) < 0.13 for one, two in pairwise(factors))
    assert factors[-1] < 0.1
    shares = [progress(schedule, step, 100, cuts)[0] for step in range(cuts[-1].total)]
    assert shares == sorted(shares)


def test_a_run_never_becomes_longer_again() -> None:
    assert valid_cuts(100, [Cut(40, 60), Cut(30, 50)]) == [Cut(30, 50)]  # killed after the first, and late again before it
    assert valid_cuts(100, [Cut(40, 60), Cut(50, 70)]) == [Cut(40, 60)]
    assert valid_cuts(100, [Cut(40, 100, False), Cut(60, 80)]) == [Cut(40, 100, False), Cut(60, 80)]


def test_a_late_run_leaves_out_evaluations_before_steps() -> None:
    assert fitting_cut(50, 100, left=52.0, step=1.0, evaluation=2.0, evaluations=5, has_best=True) == Cut(50, 100, False)
    cut = fitting_cut(50, 100, left=30.0, step=1.0, evaluation=2.0, evaluations=5, has_best=True)
    assert not cut.evaluations
    assert 75 <= cut.total <= 78
    assert fitting_cut(50, 100, left=30.0, step=1.0, evaluation=0.1, evaluations=5, has_best=True).evaluations
    assert fitting_cut(50, 100, left=1.0, step=3.0, evaluation=2.0, evaluations=5, has_best=True) == Cut(50, 50, False)
    assert fitting_cut(50, 100, left=1.0, step=3.0, evaluation=2.0, evaluations=5, has_best=False) == Cut(50, 50, True)


def test_a_run_that_goes_as_planned_is_not_cut(bases, records, plain, tmp_path: Path) -> None:
    watched = train(bases, records, tmp_path / "watched", SlowClock(1.0, 1.1, 30), budget=73.0)
    assert not watched[0].events_named("cut_while_training")
    assert watched[2] is not None
    assert is_same(plain[1], watched[2])


def test_a_run_that_becomes_slow_comes_to_its_end_in_time_with_a_rate_of_zero(bases, records, tmp_path: Path) -> None:
    clock = SlowClock(1.0, 3.0, 20)
    run, fit, _ = train(bases, records, tmp_path / "run", clock)
    cuts = run.events_named("cut_while_training")
    assert cuts
    assert clock.now + 30 <= 103  # the closing takes three times as long as well
    assert fit.done == fit.work.total == cuts[-1]["total"] < 60
    assert fit.evaluator.evaluated == fit.done
    lines = [line for line in run.lines("metrics.jsonl") if "loss" in line]
    assert lines[-1]["lr"] < 0.1 * lines[cuts[0]["step"] - 1]["lr"]
    assert cuts[0]["factor"] * fit.work.masters.spec.lr <= lines[cuts[0]["step"] - 1]["lr"]


def test_a_pause_that_eats_all_the_time_ends_the_run_at_once_at_its_best_checkpoint(bases, records, tmp_path: Path) -> None:
    class Pause(SlowClock):
        def step(self, step: Step) -> None:
            self.now += 500.0 if step.number == 22 else 1.0

    run, fit, _ = train(bases, records, tmp_path / "run", Pause(0, 0, 0))
    (cut,) = run.events_named("cut_while_training")
    assert cut["step"] == cut["total"] == fit.done == 22
    assert 0 < run.events_named("trained")[0]["best"]["step"] <= 20
    assert fit.evaluator.evaluated == 20


@pytest.mark.parametrize("stop", [3, 18, 21, 22, 23, 24, 25, 26, 27, 29, 31, 33])
def test_stopped_around_a_cut_and_resumed_the_run_ends_with_the_same_bytes(bases, records, late, tmp_path: Path, stop: int) -> None:
    whole_run, whole = late
    run, fit, ended = train(bases, records, tmp_path / "run", SlowClock(1.0, 3.0, 20), stop=stop)
    assert (ended is None) == (stop <= fit.work.total)
    decided = cuts_of(run)
    for cut in whole_run.events_named("cut_while_training"):  # what the killed one would have decided next
        if Cut(cut["step"], cut["total"], cut["evaluations"]) not in decided:
            run.event("cut_while_training", **{name: value for name, value in cut.items() if name not in ("event", "at")})
    again_run, _, again = train(bases, records, tmp_path / "run")
    assert again is not None
    assert is_same(whole, again)
    assert (whole_run.folder / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert again_run.events_named("trained")[-1]["best"] == whole_run.events_named("trained")[-1]["best"]


def test_the_event_is_written_before_the_first_step_that_obeys_it(bases, records, late, tmp_path: Path) -> None:
    first = late[0].events_named("cut_while_training")[0]["step"]
    stopped, _, _ = train(bases, records, tmp_path / "stopped", SlowClock(1.0, 3.0, 20), stop=first)
    assert cuts_of(stopped)[0].step == first


def test_a_stop_in_the_last_evaluation_does_not_lose_it(bases, records, plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_for(
        bases, records, "classification", training__steps=60, model__dropout=0.1, training__checkpoint_seconds=0.0, training__patience=1000
    )
    fit = Fit(Run.create(tmp_path / "run"), work, NullReporter(), Signals())
    own = type(fit.evaluator).evaluate

    def stops(evaluator: Any, number: int) -> None:
        if number == 60:
            raise Stopped(15)
        own(evaluator, number)

    with monkeypatch.context() as patch:
        patch.setattr(type(fit.evaluator), "evaluate", stops)
        with pytest.raises(Stopped):
            fit.finish()
    run, again, _ = train(bases, records, tmp_path / "run")
    assert again.evaluator.evaluated == 60
    assert run.events_named("trained")[-1]["best"] == plain[0].events_named("trained")[-1]["best"]
