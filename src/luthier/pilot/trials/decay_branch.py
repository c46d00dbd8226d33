"""Choose the decay branch of a search's winner: early or after all epochs, linear or cosine."""

from __future__ import annotations

from collections.abc import Callable

from luthier.core.finding import Finding
from luthier.core.interfaces import Reporter
from luthier.core.study import Study
from luthier.evaluation.contributions import comparison_metric, describe_score
from luthier.pilot.trials.local import LocalTrial
from luthier.studies.plan import SearchPlan
from luthier.studies.rungs import LAST, Standing, gap, is_tied
from luthier.studies.successive_halving import SuccessiveHalving

WHOLE = "linear-1.000"
"""The end that the trial itself comes to; it wins ties."""


def choose_decay_branch(
    study: Study,
    plan: SearchPlan,
    race: SuccessiveHalving,
    runner: LocalTrial,
    reporter: Reporter,
    late: Callable[[float], bool] = lambda runs: False,
) -> LocalTrial:
    """Bring the trial that is left to all its ends, and take the best by the same validation rows; which one is noted in the ledger.

    Args:
        study: of the trial.
        plan: names the ends.
        race: has been run.
        runner: of the trial.
        reporter: shows progress.
        late: whether the time left is too short for so many more runs of the default; then the trial's own end is the only one.

    Returns:
        The run that is the final model: the trial's own, or one of its branches.
    """
    if not plan.ends:
        return runner
    ways = {f"{shape}-1.000": (1.0, shape) for shape in plan.ends}
    ways |= {f"linear-{rung.share:.3f}": (rung.share, "linear") for rung in plan.rungs if rung.falls}
    if study.entries_named("ended"):
        end = study.entries_named("won")[-1]["end"]
        return runner.branch(*ways[end]) if end else runner
    runner.reporter.chosen = True
    standings: dict[str, Standing] = {}
    for index, rung in enumerate(plan.rungs):
        if rung.falls and study.trial(runner.trial.number, f"linear-{rung.share:.3f}").events_named("forked"):
            standings[f"linear-{rung.share:.3f}"] = race.standings[index, runner.trial.number]
    for name, (share, shape) in ways.items():
        if share == 1.0 and name != WHOLE and not _is_left_out(study, runner, name, late) and runner.branch(share, shape) is not runner:
            standings[name] = Standing(runner.trial.number, *runner.train_branch(share, shape))
    whole = Standing(runner.trial.number, *runner.finish())
    best = min(standings, key=lambda name: standings[name].score, default=WHOLE)
    if best != WHOLE and is_tied(standings[best], whole):
        best = WHOLE
    findings = _branch_findings({WHOLE: whole, **standings}, best, race.metric)
    study.add_findings(*findings)
    for finding in findings:
        reporter.finding(finding)
    if best != WHOLE:
        study.add_entry("won", trial=runner.trial.number, end=best)
    study.add_entry(
        "ended", trial=runner.trial.number, scores={WHOLE: whole.score, **{name: standing.score for name, standing in standings.items()}}
    )
    return runner if best == WHOLE else runner.branch(*ways[best])


def _is_left_out(study: Study, runner: LocalTrial, name: str, late: Callable[[float], bool]) -> bool:
    """Whether an end is left out for lack of time; decided once, in the ledger."""
    decisions = [entry["left_out"] for entry in study.entries_named("cut_to_time") if entry.get("end") == name]
    if decisions:
        return decisions[0]
    fit = runner.training()
    left_out = late(1 - fit.done / max(fit.work.total, 1) + 1 - LAST)
    if left_out:
        study.add_entry("cut_to_time", end=name, left_out=True)
    return left_out


def _branch_findings(standings: dict[str, Standing], best: str, metric: str) -> list[Finding]:
    """Which end was taken, and how it stands beside the others."""
    if len(standings) < 2:
        return []
    scores = "; ".join(
        f"{describe_branch(name)} {describe_score(metric, standing.score).rpartition(' ')[2]}"
        for name, standing in sorted(standings.items(), key=lambda item: item[1].score)
    )
    claim = f"of the ways to end the run the best is: {describe_branch(best)}; validation {comparison_metric(metric)}: {scores}"
    evidence = {"end": best, "scores": {name: standing.score for name, standing in standings.items()}}
    lowest = min(standings, key=lambda name: standings[name].score)
    if best != lowest:
        claim += "; a tie, and the whole run wins ties"
    if best != WHOLE:
        lead, error = gap(standings[best], standings[WHOLE])
        claim += f"; {lead:.4f} ± {error:.4f} better than the whole run's on the same rows"
        evidence |= {"lead": lead, "standard_error": error}
    return [Finding(check="search.ends", severity="good", claim=claim, evidence=evidence)]


def describe_branch(name: str) -> str:
    """An end, for a person."""
    shape, _, share = name.rpartition("-")
    return f"{shape} decay, {'all' if float(share) == 1 else f'{float(share):.0%} of'} its epochs"
