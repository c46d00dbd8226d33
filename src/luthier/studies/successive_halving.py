"""Successive halving: trials are compared rung by rung; the ledger is written first, so a search that was killed goes on from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from luthier.core.errors import DiskFailed, DiskFull, LuthierError, RunError, Stopped
from luthier.core.run import name_disk_errors
from luthier.core.study import Study
from luthier.studies.propose import Tried, propose
from luthier.studies.rungs import Decision, Rung, Standing, decide
from luthier.studies.space import Dimension, Values


@dataclass(frozen=True)
class Trial:
    """A point of the space that takes part.

    Args:
        number: from 0, which is the default.
        values: path → value.
        by: who proposed it.
    """

    number: int
    values: Values
    by: str


Outcome = tuple[float, np.ndarray | None, float, str]
"""Score, losses, seconds, and why it failed."""


class TrialHandle(Protocol):
    """A trial at work."""

    def advance(self, share: float) -> tuple[float, np.ndarray | None]:
        """Train on to this share of the run; its score (smaller is better) and, where there are some, the losses of each validation row."""
        ...

    def train_branch(self, share: float) -> tuple[float, np.ndarray | None]:
        """Train a branch on whose learning rate falls to zero at this share of the run; the trial itself stays where it is. As `advance`."""
        ...

    def drop(self) -> None:
        """It takes no further part."""
        ...

    def halt(self) -> None:
        """Stop at once, from another thread."""
        ...


class Spectator(Protocol):
    """Who is told how the race goes."""

    def standing(self, trial: Trial, rung: Rung, standing: Standing, best: Standing | None) -> None:
        """A trial has come to a rung."""
        ...

    def on_failure(self, trial: Trial, why: str) -> None:
        """A trial has failed."""
        ...

    def on_decision(self, rung: Rung, decision: Decision) -> None:
        """It is decided who goes on."""
        ...


@dataclass
class SuccessiveHalving:
    """A search on its way.

    Args:
        study: where the ledger is.
        space: what may vary.
        sampler: a name in `propose.SAMPLERS`.
        seed: of the proposals.
        rungs: the plan.
        enter: builds a trial's entrant.
        clock: seconds so far.
        spectator: is told.
        portfolio: points that are tried right after the default.
        workers: trials that are at work at a time; what is proposed depends on their number, and not on who is first.
        poll: called while others work; may raise to stop.
        metric: that decides, for what is said.
        late: whether the time left is too short for so many more runs of the default; then challengers are dropped.
    """

    study: Study
    space: Sequence[Dimension]
    sampler: str
    seed: int
    rungs: Sequence[Rung]
    enter: Callable[[Trial], TrialHandle]
    clock: Callable[[], float]
    spectator: Spectator
    portfolio: Sequence[Values] = ()
    workers: int = 1
    poll: Callable[[], None] = lambda: None
    metric: str = "loss"
    late: Callable[[float], bool] = lambda runs: False

    def __post_init__(self) -> None:
        self.trials = {
            entry["trial"]: Trial(entry["trial"], entry["values"], entry["by"]) for entry in self.study.entries_named("proposed")
        }
        self.standings = {(entry["rung"], entry["trial"]): self._read(entry) for entry in self.study.entries_named("standing")}
        self.decisions = {entry["rung"]: entry["kept"] for entry in self.study.entries_named("rung")}
        self.entrants: dict[int, TrialHandle] = {}
        self.heard = self.study.entries_named("heard")
        self.timed_out = {trial for entry in self.study.entries_named("cut_to_time") for trial in entry.get("trials", ())}

    def run(self) -> tuple[Trial, TrialHandle]:
        """Race to the last rung.

        Returns:
            The winner, and its entrant: not yet at the end of its run.

        Raises:
            RunError: every trial has failed.
        """
        alive = list(range(self.rungs[0].trials if self.rungs else 1))
        for index, rung in enumerate(self.rungs):
            for start in range(0, len(alive), self.workers):
                self._hear()
                self._drop_late_trials(index, alive)
                self._come_to(index, rung, alive[start : start + self.workers])
            self._hear()
            alive = self._decide(index, rung, alive)
        if not self.rungs:
            self._propose(0)
        winner = alive[0]
        if not self.study.entries_named("won"):
            self.study.add_entry("won", trial=winner, end="")
        return self.trials[winner], self._entrant(winner)

    def _drop_late_trials(self, index: int, alive: Sequence[int]) -> None:
        """Where the time is too short to bring another trial to this rung and the best one to its end, those that have not come here are dropped."""
        standing = [trial for trial in alive if trial not in self.stopped]
        waiting = [trial for trial in standing if (index, trial) not in self.standings]
        here = [trial for trial in standing if trial not in waiting and math.isfinite(self.standings[index, trial].score)]
        if not waiting or len(standing) < 2 or not (here or index):
            return
        before = self.rungs[index - 1].share if index else 0.0
        share = self.rungs[index].share
        if not self.late(share - before + 1 - (share if here else before)):
            return
        leader = None if here else min(standing, key=lambda trial: self.standings[index - 1, trial].score)
        dropped = [trial for trial in waiting if trial != leader]
        self.study.add_entry("cut_to_time", rung=index, trials=dropped)
        self.timed_out |= set(dropped)

    def _come_to(self, index: int, rung: Rung, wave: Sequence[int]) -> None:
        """Bring trials to a rung, together, and note how they stand in the order of their numbers."""
        stopped = self.stopped
        entered = [self._propose(trial, wave[0]) for trial in wave if (index, trial) not in self.standings and trial not in stopped]
        for trial, outcome in zip(entered, self._advance_all(entered, rung), strict=True):
            self._note(index, rung, trial, *outcome)

    def _advance_all(self, trials: Sequence[Trial], rung: Rung) -> Iterator[Outcome]:
        """What comes of each, in their order."""
        entrants = [self._entrant(trial.number) for trial in trials]
        if self.workers == 1:
            yield from (self._try_out(entrant, rung) for entrant in entrants)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(self._try_out, entrant, rung) for entrant in entrants]
            try:
                while wait(futures, timeout=0.2).not_done:
                    self.poll()
            except BaseException:
                for entrant in entrants:
                    entrant.halt()
                raise
            yield from (future.result() for future in futures)

    def _try_out(self, entrant: TrialHandle, rung: Rung) -> Outcome:
        """Score, losses, seconds, and why it failed where it did."""
        began = self.clock()
        try:
            score, losses = entrant.train_branch(rung.share) if rung.falls else entrant.advance(rung.share)
            why = "" if math.isfinite(score) else f"the validation score is {score}"
        except (Stopped, DiskFull, DiskFailed):
            raise  # of the whole search
        except LuthierError as problem:
            score, losses, why = math.inf, None, problem.message.split("\n", 1)[0]
        except Exception as problem:
            score, losses, why = math.inf, None, f"{type(problem).__name__}: {problem}".split("\n", 1)[0]
        return score, losses, round(self.clock() - began, 3), why

    def _note(self, index: int, rung: Rung, trial: Trial, score: float, losses: np.ndarray | None, seconds: float, why: str) -> None:
        if why:
            score, losses = math.inf, None
            self.spectator.on_failure(trial, why)
        standing = Standing(trial.number, score, losses)
        if losses is not None:
            folder = self.study.folder / "standings"
            with name_disk_errors(str(folder)):
                folder.mkdir(exist_ok=True)
            save_file({"losses": losses}, folder / f"rung-{index}-trial-{trial.number:03d}.safetensors")
        self.study.add_entry("standing", rung=index, trial=trial.number, share=rung.share, score=score, seconds=seconds, why=why)
        others = [other for (at, _), other in self.standings.items() if at == index]
        self.standings[index, trial.number] = standing
        if why:
            self._drop(trial.number)
        else:
            self.spectator.standing(trial, rung, standing, min(others, key=lambda other: other.score, default=None))

    def _decide(self, index: int, rung: Rung, alive: Sequence[int]) -> list[int]:
        if index not in self.decisions:
            stopped = self.stopped
            decision = decide([self.standings[index, trial] for trial in alive if trial not in stopped], rung.kept, self.metric)
            decision = Decision(
                decision.kept,
                {
                    **decision.reasons,
                    **{
                        trial: "the time was short" if trial in self.timed_out else "stopped by hand" for trial in alive if trial in stopped
                    },
                },
            )
            if not decision.kept:
                raise RunError("every trial has failed: " + "; ".join(sorted({entry["why"] for entry in self.study.entries_named("standing") if entry["why"]}))[:300],
                               "look at the first one's message; `luthier train` with a lower learning rate may say more")  # fmt: skip
            self.study.add_entry("rung", rung=index, share=rung.share, kept=list(decision.kept), reasons={str(trial): why for trial, why in decision.reasons.items()})  # fmt: skip
            self.decisions[index] = list(decision.kept)
            self.spectator.on_decision(rung, decision)
        for trial in alive:
            if trial not in self.decisions[index]:
                self._drop(trial)
        return self.decisions[index]

    def _propose(self, trial: int, known: int = 0) -> Trial:
        """A trial; where it is new, proposed from how those before `known` stood."""
        if trial not in self.trials:
            ahead = [self.trials[other].values for other in range(known, trial)]
            count = self.rungs[0].trials if self.rungs else 1
            proposal = propose(self._space(trial), self.sampler, self.seed, count, self._list_tried(known), self.portfolio, ahead)
            self.study.add_entry("proposed", trial=trial, values=proposal.values, by=proposal.by)
            self.trials[trial] = Trial(trial, proposal.values, proposal.by)
        return self.trials[trial]

    def _list_tried(self, before: int) -> list[Tried]:
        """How the trials before this one stood at the first rung: later ones know nothing of rungs that they have not come to."""
        stood = [trial for trial in range(before) if (0, trial) in self.standings]  # one may have been stopped by hand before
        return [Tried(self.trials[trial].values, self.standings[0, trial].score, self.rungs[0].share) for trial in stood]

    @property
    def stopped(self) -> set[int]:
        """Trials that a person has stopped, or that there was no time for."""
        return {entry["request"]["stop"] for entry in self.heard if "stop" in entry["request"]} | self.timed_out

    def _hear(self) -> None:
        """Take up what a person has asked for meanwhile; the ledger keeps it, and from which trial on it holds."""
        for request in self.study.lines("requests.jsonl")[len(self.heard) :]:
            self.study.add_entry("heard", request=request, before=len(self.trials))
            self.heard.append({"request": request, "before": len(self.trials)})

    def _space(self, trial: int) -> list[Dimension]:
        """What may vary in a trial: narrower where a person has asked for it before."""
        requests = [
            Dimension.model_validate(entry["request"]["narrow"])
            for entry in self.heard
            if "narrow" in entry["request"] and entry["before"] <= trial
        ]
        narrow = {dimension.path: dimension for dimension in requests}
        return [narrow.get(dimension.path, dimension) for dimension in self.space]

    def _entrant(self, trial: int) -> TrialHandle:
        if trial not in self.entrants:
            self.entrants[trial] = self.enter(self.trials[trial])
        return self.entrants[trial]

    def _drop(self, trial: int) -> None:
        entrant = self.entrants.pop(trial, None)
        if entrant is not None:
            entrant.drop()

    def _read(self, entry: dict) -> Standing:
        file = self.study.folder / "standings" / f"rung-{entry['rung']}-trial-{entry['trial']:03d}.safetensors"
        losses = load_file(file)["losses"] if file.exists() else None
        score = float(entry["score"]) if isinstance(entry["score"], int | float) else math.inf
        return Standing(entry["trial"], score, losses)
