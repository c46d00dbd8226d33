"""Propose the next trial: the default first, then a mix of draws from the prior, draws near the best so far, and an Optuna sampler.

A proposal is a pure function of the space, the seed, its number and what the ledger says, so that a study that was killed goes on with the same ones.

Source: Mallik et al. 2023, "PriorBand" (the mixture).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.errors import ExperimentError, nearest
from luthier.core.randomness import mix, permutation, seed_of
from luthier.studies.space import Dimension, Values, default_point, loosen_point, settle_point

SAMPLERS = ("tpe", "gp", "random", "cmaes", "qmc", "prior")
"""Of Optuna, by name; `prior` draws from the prior and near the best alone."""
FROM_PRIOR = 0.7
"""Share of the proposals, the first ones, that come from the prior: spread evenly over it."""
MODELLED = 8
"""Trials that a sampler needs to have seen: before, it would draw at random from the whole space."""


@dataclass(frozen=True)
class Tried:
    """A point that has been tried.

    Args:
        values: the point.
        score: smaller is better; infinite where it failed.
        share: of its run, that the score was seen after.
    """

    values: Values
    score: float
    share: float


@dataclass(frozen=True)
class Proposal:
    """A point to be tried.

    Args:
        values: the point.
        by: default, portfolio, prior, near the best, or the sampler's name.
    """

    values: Values
    by: str


def propose(
    space: Sequence[Dimension],
    sampler: str,
    seed: int,
    count: int,
    tried: Sequence[Tried],
    portfolio: Sequence[Values] = (),
    ahead: Sequence[Values] = (),
) -> Proposal:
    """The next point.

    Args:
        space: what may vary.
        sampler: a name in `SAMPLERS`.
        seed: of the study.
        count: how many proposals there will be.
        tried: those before, in their order.
        portfolio: points that come right after the default.
        ahead: proposed after those that were tried, and still at work.

    Raises:
        ExperimentError: there is no such sampler.
    """
    if sampler not in SAMPLERS:
        raise ExperimentError(f"there is no sampler {sampler!r}", nearest(sampler, SAMPLERS))
    turn = len(tried) + len(ahead)
    if turn == 0:
        return Proposal(default_point(space), "default")
    if turn <= len(portfolio):
        return Proposal({**default_point(space), **portfolio[turn - 1]}, "portfolio")
    turn -= len(portfolio)
    prior_turns = max(1, round(FROM_PRIOR * (count - len(portfolio) - 1)))
    for attempt in range(20):
        by = "prior" if turn <= prior_turns or not tried else _choose_sampler(sampler, seed, turn)
        proposal = Proposal(_point(space, by, seed, turn, attempt, prior_turns, tried), by)
        if proposal.values not in [*ahead, *(past.values for past in tried)]:
            return proposal
    anywhere = {dimension.path: dimension.at(_draw(seed, turn, 99, dimension.path)) for dimension in space}
    return Proposal(settle_point(space, anywhere), "random")


def _choose_sampler(sampler: str, seed: int, turn: int) -> str:
    draw = _draw(seed, turn, 0, "which")
    if draw < 0.5:
        return "near the best"
    return "prior" if draw < 0.75 or sampler == "prior" or turn < MODELLED else sampler


def _point(space: Sequence[Dimension], by: str, seed: int, turn: int, attempt: int, prior_turns: int, tried: Sequence[Tried]) -> Values:
    if by == "prior":
        return settle_point(
            space,
            {dimension.path: dimension.quantile(_draw_evenly(seed, turn, attempt, prior_turns, dimension.path)) for dimension in space},
        )
    if by == "near the best":
        furthest = max(past.share for past in tried)
        best = min((past for past in tried if past.share == furthest), key=lambda past: past.score)
        loose = loosen_point(space, best.values)
        return settle_point(
            space,
            {dimension.path: dimension.near(loose[dimension.path], _draw(seed, turn, attempt, dimension.path)) for dimension in space},
        )
    return _ask_optuna(space, by, seed_of(seed, "sampler", turn, attempt), tried)


def _draw(seed: int, turn: int, attempt: int, what: str) -> float:
    return (float(mix(seed, "propose", turn, attempt, what)) + 1.0) / (2.0**64 + 2.0)


def _draw_evenly(seed: int, turn: int, attempt: int, prior_turns: int, what: str) -> float:
    """Draws that share the prior evenly among the first proposals: one in each slice, slices in an order of each dimension's own."""
    within = _draw(seed, turn, attempt, what)
    if turn > prior_turns:
        return within
    slices = permutation(prior_turns, seed, "slices", what)
    return float(slices[turn - 1] + within) / prior_turns


def _ask_optuna(space: Sequence[Dimension], name: str, seed: int, tried: Sequence[Tried]) -> Values:
    """A proposal of Optuna's, whose study is built from what was tried."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samplers = optuna.samplers
        optuna_sampler = {
            "tpe": lambda: samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=True),
            "gp": lambda: samplers.GPSampler(seed=seed, n_startup_trials=4),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "cmaes": lambda: samplers.CmaEsSampler(seed=seed, n_startup_trials=4),
            "qmc": lambda: samplers.QMCSampler(seed=seed),
        }[name]()
        params = optuna_study(space, tried, optuna_sampler).ask(distributions(space)).params
    point: Values = {}
    for dimension in space:
        value = params[dimension.path]
        if dimension.kind == "choice":
            point[dimension.path] = next(option for option in dimension.options if str(option) == value)
        else:
            point[dimension.path] = float(f"{value:.3g}")
    return settle_point(space, point, asked=point)


def distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    """The space in Optuna's terms; options by what is written of them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        dimension.path: CategoricalDistribution([str(option) for option in dimension.options])
        if dimension.kind == "choice"
        else FloatDistribution(dimension.low, dimension.high, log=dimension.kind == "log")
        for dimension in space
    }


def optuna_study(space: Sequence[Dimension], tried: Sequence[Tried], sampler: Any = None) -> Any:
    """An Optuna study that knows what was tried; a trial that failed is a little worse than the worst."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = {dimension.path for dimension in space if dimension.kind == "choice"}
    tried = [
        past
        for past in tried
        if all(past.values[dimension.path] in dimension.options for dimension in space if dimension.path in options & past.values.keys())
    ]
    study = optuna.create_study(sampler=sampler)
    worst = max((past.score for past in tried if np.isfinite(past.score)), default=0.0)
    for past in tried:
        values = {path: str(value) if path in options else float(value) for path, value in past.values.items()}
        score = past.score if np.isfinite(past.score) else worst + abs(worst) + 1.0
        wide = [_with(dimension, values[dimension.path]) for dimension in space if dimension.path in values]
        study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions(wide), value=score))
    return study


def _with(dimension: Dimension, value: Any) -> Dimension:
    """The dimension as it was when it held this value: a person may have narrowed it since."""
    if dimension.kind == "choice":
        return dimension
    return dimension.model_copy(update={"low": min(dimension.low, value), "high": max(dimension.high, value)})


def importance(space: Sequence[Dimension], tried: Sequence[Tried]) -> dict[str, float]:
    """Which share of the scores' variance each dimension explains by itself or with others, the largest first; empty where too little was tried.

    Source: Hutter, Hoos & Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance" (fANOVA; Optuna's).
    """
    import optuna

    sound = [past for past in tried if np.isfinite(past.score)]
    if len(space) < 2 or len(sound) < MODELLED or len({past.score for past in sound}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(optuna_study(space, sound), evaluator=evaluator))
