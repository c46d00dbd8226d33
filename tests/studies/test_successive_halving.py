"""A race: what is proposed, who goes on, and that a study that was killed goes on with the same trials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import Diverged, ExperimentError, RunError
from luthier.core.study import Study
from luthier.studies.propose import SAMPLERS, Tried, importance, propose
from luthier.studies.rungs import Standing, cost_of, decide, expected_luck, is_tied, rungs_for, trials_within
from luthier.studies.space import Dimension
from luthier.studies.successive_halving import SuccessiveHalving, Trial

RATE = Dimension(path="optimizer.lr", kind="log", low=1e-5, high=1e-2, centre=1e-4, spread=1.0)
SPACE = (RATE, Dimension(path="training.batch_size", kind="choice", options=(8, 16, 32), centre=16, spread=0.5))
ROWS = np.linspace(-1, 1, 50)


def test_the_default_is_first_and_the_others_are_spread_over_the_prior() -> None:
    tried: list[Tried] = []
    for _ in range(9):
        found = propose(SPACE, "prior", 3, 12, tried)
        tried.append(Tried(found.values, 1.0, 0.1))
    assert tried[0].values == {"optimizer.lr": 1e-4, "training.batch_size": 16}
    places = sorted(math.log(past.values["optimizer.lr"] / 1e-4) for past in tried[1:])
    assert [place < 0 for place in places].count(True) == 4  # eight slices of the prior, one each
    assert places[0] < -1.1 < 1.1 < places[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposal_is_a_pure_function_of_the_ledger_for_every_sampler(sampler) -> None:
    tried = [Tried(propose(SPACE, "prior", 3, 5, []).values, 0.5, 0.1)]
    for number in range(8):
        tried.append(Tried({"optimizer.lr": 1e-5 * 2**number, "training.batch_size": (8, 16, 32)[number % 3]}, 0.5 - number / 100 if number != 3 else math.inf, 0.1))  # fmt: skip
    seen = set()
    for turn in range(9, 15):
        found = propose(SPACE, sampler, 3, 9, tried[:turn])
        assert found == propose(SPACE, sampler, 3, 9, tried[:turn])
        assert 1e-5 <= found.values["optimizer.lr"] <= 1e-2
        assert found.values["training.batch_size"] in (8, 16, 32)
        tried.append(Tried(found.values, 0.4, 0.1))
        seen.add(found.by)
    assert sampler in seen or sampler == "prior" or "near the best" in seen


def test_what_the_scores_depend_on_is_found_and_nothing_is_said_of_few_trials() -> None:
    tried = [Tried({"optimizer.lr": 1e-5 * 1.6**number, "training.batch_size": (8, 16, 32)[number % 3]}, float(number % 3), 0.1) for number in range(14)]  # fmt: skip
    shares = importance(SPACE, tried)
    assert next(iter(shares)) == "training.batch_size"
    assert shares["training.batch_size"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importance(SPACE, [Tried(past.values, math.log(past.values["optimizer.lr"]), 0.1) for past in tried])["optimizer.lr"] > 0.9
    assert importance(SPACE, tried[:7]) == {}
    assert importance(SPACE[:1], tried) == {}
    assert importance(SPACE, [Tried(past.values, math.inf, 0.1) for past in tried]) == {}


def test_an_unknown_sampler_is_named_with_the_nearest() -> None:
    with pytest.raises(ExperimentError, match="tpe"):
        propose(SPACE, "tpee", 1, 4, [])


@pytest.mark.parametrize("trials", range(1, 33))
@pytest.mark.parametrize(("warmup", "steps", "first"), [(0.0, 10_000, 1 / 16), (0.1, 10_000, 1 / 8), (0.0, 600, 1 / 8), (0.0, 300, 1 / 4), (0.3, 10_000, 1 / 4), (0.1, 20, 1 / 4)])  # fmt: skip
def test_trials_are_compared_when_it_says_something_and_one_is_left_by_the_half(trials, warmup, steps, first) -> None:
    rungs = rungs_for(trials, warmup, steps)
    assert not rungs or rungs[0].share == first
    alive = trials
    for rung in rungs:
        assert rung.trials == alive
        alive = rung.kept
        assert alive == 1 if rung.share == 1 / 2 else alive >= 2
    assert alive == 1


def test_a_budget_buys_trials_and_the_cost_is_what_their_steps_are() -> None:
    assert cost_of(rungs_for(1, 0.1, 1000)) == 1.0
    assert cost_of(rungs_for(6, 0.1, 1000)) == pytest.approx(6 / 8 + 2 / 8 + 2 / 4 + 1 / 2 + 5 * 0.03)
    assert [trials_within(budget, 0.1, 1000) for budget in (1.0, 2.0, 3.0)] == [1, 5, 9]
    for budget, steps in ((1.5, 100), (2.0, 1000), (3.0, 300), (8.0, 1000)):
        assert cost_of(rungs_for(trials_within(budget, 0.1, steps), 0.1, steps)) <= budget


@pytest.mark.parametrize("trials", range(2, 33))
def test_where_runs_have_ends_the_last_two_are_compared_by_branches_that_fall(trials) -> None:
    rungs = rungs_for(trials, 0.1, 1000, ends=True)
    *before, half, last = rungs
    assert [rung.falls for rung in rungs] == [False] * (len(rungs) - 1) + [True]
    assert (half.share, half.kept) == (1 / 2, 2)
    assert (last.trials, last.kept) == (2, 1)
    assert last.share == pytest.approx(0.5 / 0.85)
    plain = rungs_for(trials, 0.1, 1000)
    assert [rung.share for rung in plain] == [rung.share for rung in (*before, half)]
    assert cost_of(rungs) == pytest.approx(
        cost_of(plain) + 2 * (last.share - half.share)
    )  # the branches; the trial itself goes on from the half
    assert cost_of(rungs, 2) == pytest.approx(cost_of(rungs) + 0.5)


def test_a_falling_rung_asks_for_a_branch_and_the_trial_goes_on_from_before_it(tmp_path) -> None:
    calls: list[Any] = []
    found = race(tmp_path / "study", calls, ends=True)
    winner, _ = found.run()
    assert [call for call in calls if call[0] in ("end", winner.number)][-2:] != []
    ended = [call for call in calls if call[0] == "end"]
    assert len(ended) == 2
    assert {number for _, number, _ in ended} >= {0, winner.number}
    assert all(share == pytest.approx(0.5 / 0.85) for _, _, share in ended)
    assert found.study.entries_named("won")[-1] == {"event": "won", "trial": winner.number, "end": ""}


def test_the_default_stays_while_two_do_and_wins_a_tie() -> None:
    better = [Standing(number, 0.5 - number / 100, 0.5 - number / 100 + ROWS * 0) for number in range(6)]
    kept = decide(better, 2)
    assert kept.kept == (5, 0)
    assert set(kept.reasons) == {1, 2, 3, 4}
    assert decide([better[0], better[5]], 1).kept == (5,)
    noisy = Standing(5, 0.49, 0.49 + ROWS)
    assert is_tied(noisy, better[0])
    tie = decide([better[0], noisy], 1)
    assert tie.kept == (0,)
    assert "tie" in tie.reasons[5]
    assert decide([Standing(0, math.inf), noisy], 1).kept == (5,)
    assert decide([Standing(0, math.inf), Standing(1, math.inf)], 1).kept == ()


def test_the_luck_of_the_best_of_many_is_that_of_normal_draws() -> None:
    assert expected_luck(1) == 0.0
    assert expected_luck(2) == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
    assert expected_luck(16) == pytest.approx(1.77, abs=0.02)


class Bowl:
    """A trial whose loss depends on its rate alone and falls with its share; every call is counted."""

    calls: list[tuple[int, float]]

    def __init__(self, trial: Trial, calls: list[Any], stop_at: int | None = None) -> None:
        self.trial, self.calls, self.stop_at = trial, calls, stop_at

    def advance(self, share: float) -> tuple[float, np.ndarray | None]:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((self.trial.number, share))
        rate = self.trial.values["optimizer.lr"]
        if rate > 5e-3:
            raise Diverged("step 3: the loss is nan", "lower the rate")
        losses = abs(math.log(rate / 6e-4)) + 1 - share + ROWS / 100
        return float(losses.mean()), losses

    def train_branch(self, share: float) -> tuple[float, np.ndarray | None]:
        found = self.advance(share)
        self.calls[-1] = ("end", *self.calls[-1])  # type: ignore[call-overload]
        return found

    def drop(self) -> None:
        pass


class Nobody:
    def standing(self, *_: object) -> None:
        pass

    on_failure = on_decision = standing


def race(folder: Path, calls: list[Any], stop_at: int | None = None, trials: int = 8, ends: bool = False) -> SuccessiveHalving:
    folder.mkdir(exist_ok=True)
    return SuccessiveHalving(
        Study(folder), SPACE, "tpe", 1, rungs_for(trials, 0.1, 1000, ends), lambda trial: Bowl(trial, calls, stop_at), lambda: 0.0, Nobody()
    )  # type: ignore[arg-type]


def ledger(folder: Path) -> str:
    return (folder / "ledger.jsonl").read_text()


def test_the_best_trial_wins_and_none_is_trained_further_than_it_must(tmp_path) -> None:
    calls: list[Any] = []
    winner, _ = race(tmp_path / "whole", calls).run()
    study = Study(tmp_path / "whole")
    rates = {entry["trial"]: entry["values"]["optimizer.lr"] for entry in study.entries_named("proposed")}
    assert winner.number == min(rates, key=lambda trial: abs(math.log(rates[trial] / 6e-4)))
    assert len(calls) == len(set(calls)) == 8 + 3 + 2
    assert [entry["kept"] for entry in study.entries_named("rung")][-1] == [winner.number]


def test_a_race_that_is_killed_at_any_moment_goes_on_with_the_same_ledger(tmp_path) -> None:
    race(tmp_path / "whole", []).run()
    for stop_at in range(13):
        calls: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            race(tmp_path / f"cut-{stop_at}", calls, stop_at).run()
        with (tmp_path / f"cut-{stop_at}" / "ledger.jsonl").open("a") as torn:
            torn.write('{"event": "stan')
        again: list[Any] = []
        race(tmp_path / f"cut-{stop_at}", again).run()
        assert ledger(tmp_path / f"cut-{stop_at}") == ledger(tmp_path / "whole")
        assert not set(calls) & set(again)  # what is in the ledger is not done twice


def test_a_trial_that_fails_is_named_and_survived_and_all_failing_is_an_error(tmp_path) -> None:
    hot = (RATE.model_copy(update={"low": 1e-4, "high": 1.0, "spread": 3.0}),)
    made = race(tmp_path / "hot", [])
    made.space = hot
    winner, _ = made.run()
    failed = [entry for entry in Study(tmp_path / "hot").entries_named("standing") if entry["why"]]
    assert failed
    assert "the loss is nan" in failed[0]["why"]
    assert winner.values["optimizer.lr"] <= 5e-3
    made = race(tmp_path / "all", [])
    made.space = (RATE.model_copy(update={"low": 1e-2, "high": 1.0, "centre": 0.1}),)
    with pytest.raises(RunError, match="every trial has failed"):
        made.run()


def test_a_person_narrows_a_search_at_work_and_stops_a_trial_and_a_killed_one_remembers(tmp_path) -> None:
    rate = next(dimension for dimension in SPACE if dimension.path == "optimizer.lr")
    narrow = rate.model_copy(update={"low": 2e-4, "high": 4e-4, "centre": 3e-4})

    class Person(Nobody):
        """Asks after the third standing."""

        def __init__(self, study: Study) -> None:
            self.study, self.left = study, 3

        def standing(self, *_: object) -> None:
            self.left -= 1
            if self.left == 0:
                self.study.append("requests.jsonl", {"narrow": narrow.model_dump(mode="json")}, {"stop": 2})

    def make(folder: Path, stop_at: int | None = None) -> SuccessiveHalving:
        found = race(folder, [], stop_at, trials=16)
        found.spectator = Person(found.study)  # type: ignore[assignment]
        return found

    whole = make(tmp_path / "whole")
    whole.run()
    rates = {number: trial.values["optimizer.lr"] for number, trial in whole.trials.items()}
    assert all(2e-4 <= rates[number] <= 4e-4 for number in range(3, 16))
    assert not all(2e-4 <= rates[number] <= 4e-4 for number in range(3))
    decision = whole.study.entries_named("rung")[0]
    assert decision["reasons"]["2"] == "stopped by hand"
    assert 2 not in decision["kept"]
    cut = make(tmp_path / "cut", stop_at=7)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = race(tmp_path / "cut", [], trials=16)  # nobody asks a second time
    again.run()
    assert ledger(tmp_path / "cut") == ledger(tmp_path / "whole")


def test_what_was_tried_outside_of_a_narrowed_space_is_still_known_to_the_samplers() -> None:
    space = [
        Dimension(path="optimizer.lr", kind="log", low=1e-4, high=2e-4, centre=1.5e-4),
        Dimension(path="training.batch_size", kind="choice", options=(8, 16), centre=8),
    ]
    tried = [Tried({"optimizer.lr": 1e-3 / 2**n, "training.batch_size": (8, 16, 32)[n % 3]}, float(n), 0.1) for n in range(12)]
    for sampler in ("tpe", "gp", "random", "cmaes", "qmc"):
        for seed in range(4):
            values = propose(space, sampler, seed, 16, tried).values
            assert 1e-4 <= values["optimizer.lr"] <= 2e-4
            assert values["training.batch_size"] in (8, 16)


def hurry(folder: Path, calls: list[Any], since: int, stop_at: int | None = None) -> SuccessiveHalving:
    """A race whose time becomes short after so many calls."""
    made = race(folder, calls, stop_at)
    made.late = lambda runs: len(made.standings) >= since
    return made


@pytest.mark.parametrize("since", [0, 1, 3, 8, 9, 10, 11])
def test_a_race_that_is_late_drops_challengers_and_the_best_one_goes_on(tmp_path, since: int) -> None:
    calls: list[Any] = []
    winner, _ = hurry(tmp_path / "late", calls, since).run()
    rungs = rungs_for(8, 0.1, 1000)
    study = Study(tmp_path / "late")
    stood = [entry for entry in study.entries_named("standing") if not entry["why"]]
    cut = study.entries_named("cut_to_time")
    assert cut
    assert winner.number not in {trial for entry in cut for trial in entry["trials"]}
    assert sum(trial == winner.number for trial, _ in calls) == len(rungs)
    best = min((entry for entry in stood if entry["rung"] == cut[0]["rung"]), key=lambda entry: entry["score"], default=None)
    assert best is None or since < 2 or winner.number == best["trial"] or winner.number == 0
    assert any("the time was short" in entry["reasons"].values() for entry in study.entries_named("rung"))


def test_a_late_race_that_is_killed_goes_on_without_those_it_dropped(tmp_path) -> None:
    calls: list[Any] = []
    hurry(tmp_path / "whole", calls, 4).run()
    for stop_at in range(len(calls)):
        folder = tmp_path / f"killed-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            hurry(folder, [], 4, stop_at).run()
        late = hurry(folder, [], 4)
        late.run()
        assert Study(folder).entries_named("rung") == Study(tmp_path / "whole").entries_named("rung")
