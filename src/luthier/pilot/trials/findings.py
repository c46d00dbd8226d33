"""Progress lines and findings of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from luthier.core.finding import Finding
from luthier.core.interfaces import Reporter
from luthier.core.run import Clock, Run
from luthier.core.study import Study
from luthier.core.words import duration, plural
from luthier.evaluation.contributions import comparison_metric, describe_score
from luthier.pilot.trials.decay_branch import describe_branch
from luthier.studies.plan import SearchPlan
from luthier.studies.propose import Tried, importance
from luthier.studies.rungs import Decision, Rung, Standing, expected_luck, gap, is_tied
from luthier.studies.successive_halving import SuccessiveHalving, Trial


class SearchProgress:
    """Reports how the search goes."""

    def __init__(self, reporter: Reporter, clock: Clock, metric: str = "loss") -> None:
        self.reporter, self.clock, self.metric = reporter, clock, metric

    def standing(self, trial: Trial, rung: Rung, standing: Standing, best: Standing | None) -> None:
        """A trial has come to a rung."""
        leads = best is None or standing.score < best.score
        self.reporter.say(
            f"  {describe_trial(trial):<44} {rung.share:>6.1%}  {describe_score(self.metric, standing.score)}{' leads' if leads else ''}  {duration(self.clock())}"
        )

    def on_failure(self, trial: Trial, why: str) -> None:
        """A trial has failed."""
        self.reporter.say(f"  {describe_trial(trial):<44} failed: {why}")

    def on_decision(self, rung: Rung, decision: Decision) -> None:
        """It is decided who goes on."""
        stopped = f"stopped: {', '.join(map(str, sorted(decision.reasons)))}" if decision.reasons else "none stopped"
        self.reporter.say(f"  after {rung.share:.1%} of a run: {_continuing(decision.kept)}, {stopped}")


def _continuing(trials: Sequence[int]) -> str:
    """Which trials go on: "trial 2 continues", "trials 0 and 2 continue"."""
    if len(trials) == 1:
        return f"trial {trials[0]} continues"
    return f"trials {', '.join(map(str, sorted(trials)[:-1]))} and {max(trials)} continue"


class RemoteProgress:
    """Says from time to time how far the trials have come that others compute; asked again and again while they do.

    Args:
        folder: of the study.
        reporter: shows progress.
        poll: asked each time; may raise to stop.
        every: seconds between two lines.
    """

    def __init__(self, folder: Path, reporter: Reporter, poll: Callable[[], None], every: float = 10.0) -> None:
        self.folder, self.reporter, self.poll, self.every = folder, reporter, poll, every
        self.told = time.monotonic()
        self.seen: dict[Path, int] = {}

    def __call__(self) -> None:
        """Look."""
        self.poll()
        if time.monotonic() - self.told < self.every:
            return
        self.told = time.monotonic()
        lines = []
        for file in sorted((self.folder / "trials").rglob("metrics.jsonl")):
            size = file.stat().st_size
            if self.seen.get(file) != size:
                self.seen[file] = size
                lines += self._stands(file)
        if lines:
            self.reporter.say("  at work: " + "; ".join(lines))

    def _stands(self, file: Path) -> list[str]:
        """A trial, or a branch of one, and its last step."""
        steps = [line for line in Run(file.parent).lines(file.name) if "loss" in line]
        trial, *branch = file.parent.relative_to(self.folder / "trials").parts
        end = f" ({describe_branch(branch[-1])})" if branch else ""
        return [f"trial {int(trial)}{end} step {steps[-1]['step']} (loss {steps[-1]['loss']:.3f})"] if steps else []


def describe_trial(trial: Trial) -> str:
    """A trial as a person reads it."""
    values = ", ".join(f"{path.split('.')[-1]} {value:g}" if isinstance(value, float) else f"{path.split('.')[-1]} {value}" for path, value in trial.values.items())  # fmt: skip
    return f"trial {trial.number} ({'default' if trial.number == 0 else values})"


def search_findings(study: Study, plan: SearchPlan, race: SuccessiveHalving, winner: Trial) -> list[Finding]:
    """What the search found out, and how much of it may be luck."""
    if len({trial for _, trial in race.standings}) < 2:  # one alone, or no time for the others
        return []
    findings = [_against_default(race, winner, plan)]
    losses = next(
        (
            standing.losses
            for (_, trial), standing in sorted(race.standings.items(), reverse=True)
            if trial == winner.number and standing.losses is not None
        ),
        None,
    )
    if losses is not None:
        error = float(losses.std(ddof=1) / np.sqrt(len(losses)))
        luck = expected_luck(plan.trials)
        findings.append(Finding(check="search.luck", claim=f"the best of {plan.trials} equal trials would seem {luck:.2f} standard errors better than it is: {luck * error:.4f} of validation {comparison_metric(race.metric)}, were their results independent",
                                evidence={"trials": plan.trials, "standard_errors": luck, "standard_error": error},
                                remedy="the sealed test rows took no part in the choice: believe them"))  # fmt: skip
    findings += _what_mattered(plan, race)
    failed = [entry for entry in study.entries_named("standing") if entry["why"]]
    if failed:
        findings.append(Finding(check="search.failed", severity="warning", claim=f"{len(failed)} of {plural(plan.trials, 'trial')} failed: {failed[0]['why']}",
                                evidence={"trials": [entry["trial"] for entry in failed]}, remedy="narrow the space if it happens often"))  # fmt: skip
    return findings


def _what_mattered(plan: SearchPlan, race: SuccessiveHalving) -> list[Finding]:
    """Which hyperparameter the scores depended on, where enough was tried to say so."""
    tried = [
        Tried(trial.values, race.standings[0, number].score, plan.rungs[0].share)
        for number, trial in race.trials.items()
        if (0, number) in race.standings
    ]
    shares = importance(plan.space, tried)
    if not shares:
        return []
    listing = ", ".join(f"{path} {share:.0%}" for path, share in shares.items())
    return [Finding(check="search.importance", severity="note", claim=f"what the trials' validation {comparison_metric(race.metric)} after {plan.rungs[0].share:.1%} of a run depended on: {listing}",
                    evidence={"shares": shares, "trials": len(tried)})]  # fmt: skip


def _against_default(race: SuccessiveHalving, winner: Trial, plan: SearchPlan) -> Finding:
    """The chosen values against the default, on the same rows at the last rung that both came to."""
    if winner.number == 0:
        rivals = [(rung, trial) for rung, trial in race.standings if trial != 0]
        rung, rival = max(rivals, key=lambda key: (key[0], -race.standings[key].score))
        ours, theirs = race.standings.get((rung, 0)), race.standings[rung, rival]
        lead, error = gap(theirs, ours) if ours else (float("nan"), float("nan"))
        return Finding(check="search.default", severity="good", claim=f"the default was kept: no challenger is better than it beyond noise ({plan.trials - 1} tried)",
                       evidence={"trial": 0, "nearest": rival, "lead_of_nearest": lead, "standard_error": error, "share": plan.rungs[rung].share})  # fmt: skip
    rung = max(at for at, trial in race.standings if trial == 0)
    ours, default = race.standings.get((rung, winner.number)), race.standings[rung, 0]
    listing = ", ".join(f"{path} {value}" for path, value in winner.values.items())
    if ours is None or default.losses is None:
        return Finding(
            check="search.default",
            severity="good",
            claim=f"trial {winner.number} was chosen ({listing}); the default failed",
            evidence={"trial": winner.number},
        )
    lead, error = gap(ours, default)
    sure = "" if not is_tied(ours, default, 1.96) else ", which may still be chance"
    return Finding(check="search.default", severity="good",
                   claim=f"trial {winner.number} was chosen ({listing}): after {plan.rungs[rung].share:.0%} of a run its validation {comparison_metric(race.metric)} is {lead:.4f} better than the default's on the same rows, 95 % interval [{lead - 1.96 * error:.4f}, {lead + 1.96 * error:.4f}]{sure}",
                   evidence={"trial": winner.number, "lead": lead, "standard_error": error, "share": plan.rungs[rung].share})  # fmt: skip
