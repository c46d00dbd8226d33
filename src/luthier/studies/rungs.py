"""Rungs of successive halving: how far each trial goes, planned before the first one, and which trials go on.

A trial that goes on continues where it stood: nothing is trained twice, and the last one standing is the final model.

Source: Jamieson & Talwalkar 2016 (successive halving). On LCBench the rank after 2 % of a run says nothing of its end, after 6 % the rank correlation is 0.74,
after 12 % 0.84.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.evaluation.contributions import describe_score

FIRST = (1 / 16, 1 / 8, 1 / 4)
"""Shares of a run after which its trials may first be compared."""
STEPS = 64
"""Optimizer steps before which a comparison says nothing: on four sets of 300 rows the ranks after 14 steps had a correlation of 0.03 with the test scores."""
RISEN = 0.8
"""Share of the time before the first rung that the learning rate may have been rising."""
LAST = 1 / 2
"""Share of a run by which one trial is left, and before which two stay at least."""
MOST_TRIALS = 32
OVERHEAD = 0.03
"""Of a trial, in runs: building the model, keeping it."""
FALL = 0.15
"""Share of an early end's own length over which its learning rate falls (Hägele et al. 2024: 10 to 20 %). The whole run's falls from `LAST` on: 15 % of it cost a point (docs/log/2026-11.md#searches-beside-optuna-four-of-five-sets)."""


def end_of_decay(share: float) -> float:
    """Where a run ends whose learning rate begins to fall after this share of it."""
    return share / (1 - FALL)


@dataclass(frozen=True)
class Rung:
    """Where trials are compared.

    Args:
        share: of a run, that each has then done.
        trials: that come there.
        kept: that go on from there.
        falls: each comes there as a branch whose learning rate falls to zero; the trial itself goes on at the full one.
    """

    share: float
    trials: int
    kept: int
    falls: bool = False


@dataclass(frozen=True)
class Standing:
    """How a trial stands at a rung.

    Args:
        trial: its number; 0 is the default.
        score: smaller is better; infinite where it failed.
        losses: of each validation row; None where it failed.
    """

    trial: int
    score: float
    losses: np.ndarray | None = None


def rungs_for(trials: int, warmup: float, steps: int, ends: bool = False) -> tuple[Rung, ...]:
    """A third goes on from the first rung, half from each one after it, two at least until the half of a run, and one from there.

    Args:
        trials: that take part.
        warmup: share of the run over which the learning rate rises: trials that have just risen say little of theirs.
        steps: of a whole run.
        ends: the last two are compared by branches whose learning rate falls to zero.
    """
    rungs: list[Rung] = []
    share = next((share for share in FIRST if share * steps >= STEPS and warmup <= RISEN * share), FIRST[-1])
    alive = trials
    while alive > 1:
        survivors = (2 if ends else 1) if share >= LAST else max(2, math.ceil(alive / (2 if rungs else 3)))
        rungs.append(Rung(share, alive, min(survivors, alive)))
        share, alive = share * 2, min(survivors, alive)
        if ends and share > LAST:
            rungs.append(Rung(end_of_decay(LAST), alive, 1, falls=True))
            break
    return tuple(rungs)


def cost_of(rungs: Sequence[Rung], ends: int = 1) -> float:
    """What the trials and the final model cost, in whole runs.

    Args:
        rungs: the plan.
        ends: in how many ways the final model's learning rate falls at the end of the whole run.
    """
    more = (ends - 1) * (1 - LAST)
    if not rungs:
        return 1.0 + more
    total, before = 0.0, 0.0
    for rung in rungs:
        total += rung.trials * (rung.share - before)
        before = before if rung.falls else rung.share
    return total + rungs[-1].kept * (1.0 - before) + OVERHEAD * (rungs[0].trials - 1) + more


def trials_within(budget: float, warmup: float, steps: int, ends: bool = False) -> int:
    """The most trials that a budget of so many runs pays for; 1 where it pays for no search."""
    return max((count for count in range(1, MOST_TRIALS + 1) if cost_of(rungs_for(count, warmup, steps, ends)) <= budget), default=1)


@dataclass(frozen=True)
class Decision:
    """Who goes on from a rung.

    Args:
        kept: trials, the best first.
        reasons: trial → why it was stopped.
    """

    kept: tuple[int, ...]
    reasons: Mapping[int, str]


def decide(standings: Sequence[Standing], kept: int, metric: str = "loss") -> Decision:
    """Keep the best; the default stays as long as a challenger does, and it wins a tie with the last one.

    Args:
        standings: of the trials at the same rung.
        kept: how many go on.
        metric: that decides, for the reasons.
    """
    order = sorted(standings, key=lambda standing: (standing.score, standing.trial))
    sound = [standing for standing in order if math.isfinite(standing.score)]
    reasons = {standing.trial: "it failed" for standing in order if not math.isfinite(standing.score)}
    chosen = sound[:kept]
    default = next((standing for standing in sound if standing.trial == 0), None)
    if default is not None and default not in chosen:
        if kept > 1:
            chosen = [*chosen[: kept - 1], default]
        elif chosen and is_tied(chosen[0], default):
            reasons[chosen[0].trial] = "no better than the default beyond noise: a tie, and the default wins ties"
            chosen = [default]
    best = chosen[0] if chosen else None
    for standing in sound:
        if best is not None and standing not in chosen and standing.trial not in reasons:
            reasons[standing.trial] = (
                f"{describe_score(metric, standing.score)}, against {describe_score(metric, best.score).rpartition(' ')[2]} of trial {best.trial}"
            )
    return Decision(tuple(standing.trial for standing in chosen), reasons)


def gap(challenger: Standing, default: Standing) -> tuple[float, float]:
    """How much smaller the challenger's losses are on the same rows, and the standard error of that."""
    if challenger.losses is None or default.losses is None:
        return default.score - challenger.score, math.nan
    differences = default.losses - challenger.losses
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def is_tied(challenger: Standing, default: Standing, errors: float = 1.0) -> bool:
    """Whether the challenger is less than so many standard errors better; where no rows were kept, any lead counts."""
    lead, error = gap(challenger, default)
    return lead <= 0 if math.isnan(error) else lead <= errors * error


def expected_luck(trials: int) -> float:
    """By how many standard errors the best of so many equal trials seems better than it is."""
    if trials < 2:
        return 0.0
    draws = np.random.Generator(np.random.Philox(0)).standard_normal((20_000, trials))
    return float(draws.max(axis=1).mean())
