"""A time budget: what of it is left for the training, when it is too small for anything, and what had to be left out."""

from __future__ import annotations

import time

from luthier.core.errors import ExperimentError
from luthier.core.finding import Finding
from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.core.words import duration
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.least_budget import ALWAYS, SURE, round_up
from luthier.training.assemble import load_model
from luthier.training.deadline import TimeLimit, is_crowded
from luthier.training.small_run import SHORTEST_SMALL_RUN

FEWEST_STEPS, FEWEST_WITHOUT_HEAD = 20, 10
"""Steps with which a training makes sense (or all, where fewer are planned). With a new head: it says more than chance, and the warm-up is over. The second: where a base goes on writing, without a new head."""
SHORT = 120.0
"""Seconds; a longer budget is looked at after the small run alone, which measures better."""


def fewest_steps(context: RunContext, planned: int) -> int:
    """Steps with which a training makes sense.

    Args:
        context: of the run.
        planned: steps, without a budget.
    """
    goes_on = context.base is not None and context.family.generates
    return min(planned, FEWEST_WITHOUT_HEAD if goes_on else FEWEST_STEPS)


def time_limit(context: RunContext) -> TimeLimit | None:
    """What a planned run must keep to; None where it has no time budget.

    Args:
        context: of the run, or of the study that it is a trial of.
    """
    budget, planned = context.run.events_named("created")[-1]["budget"], context.run.events_named("planned")
    if not budget or not planned or not planned[-1].get("closing"):
        return None
    forecast, closing = planned[-1]["forecast"], planned[-1]["closing"]
    seconds = closing["fixed"] + closing["probe"] + closing["words"] - closing["before"]
    return TimeLimit(budget, lambda: context.spent, seconds, forecast["a_step"], forecast["an_evaluation"])


def refuse_budget(context: RunContext, budget: float, smallest: float) -> None:
    """Say that a budget is too short for anything, and which would do.

    Args:
        context: of the run; an event is written.
        budget: seconds.
        smallest: seconds that make sense.

    Raises:
        ExperimentError: always.
    """
    needed = round_up(max(smallest, budget + 1))
    context.run.event("budget_too_short", budget=budget, smallest=needed)
    crowd = " while other programs use the processor" if is_crowded() else ""
    raise ExperimentError(f"--budget {budget:g}s is too short for these rows: the smallest that makes sense is {needed}{crowd}",
                          f"give --budget {needed} or more (and a new --out), a smaller base or fewer rows; nothing was trained")  # fmt: skip


def check_budget(context: RunContext, experiment: Experiment) -> None:
    """Refuse a budget that is hopeless, as soon as that can be known: from what reading took, and one batch.

    Args:
        context: of a run whose rows and base are read.
        experiment: of the run.

    Raises:
        ExperimentError: not even the smallest training fits.
    """
    run = context.run
    budget = run.events_named("created")[-1]["budget"]
    if not budget or budget > SHORT or run.events_named("planned") or run.events_named("proven") or run.events_named("forced"):
        return
    train, validation = context.examples("train"), context.examples("validation")
    some = validation[:16]
    model = load_model(experiment, context.base)
    score(model, context.objective, some[:2])  # the first time is slower
    times = []
    for _ in range(3):  # of which the quickest counts: a pause of the machine is no reason to refuse
        began = time.monotonic()
        score(model, context.objective, some)
        times.append(time.monotonic() - began)
    a_token = min(times) / max(sum(len(example.tokens) for example in some), 1)
    mean = sum(len(example.tokens) for example in train) / max(len(train), 1)
    step = 3 * a_token * mean * min(experiment.training.batch_size, len(train))  # forwards once, and backwards twice that
    evaluation = sum(len(example.tokens) for example in validation) * a_token
    tests = evaluation * len(context.dataset.records["test"]) / max(len(context.dataset.records["validation"]), 1)
    steps = SHORTEST_SMALL_RUN + fewest_steps(context, experiment.total_steps(len(train)))
    smallest = context.spent + steps * step + 2 * evaluation + 2 * tests + ALWAYS
    if budget < SURE * smallest:
        refuse_budget(context, budget, 2 * smallest)


def tell_cuts(place: Run, reporter: Reporter) -> None:
    """Add what was left out to keep the budget to the findings of a run, and say it.

    Args:
        place: of a run that is trained.
        reporter: shows progress.
    """
    finding = find_cuts(place)
    if finding is not None:
        place.add_findings(finding)
        reporter.finding(finding)


def find_cuts(place: Run) -> Finding | None:
    """What was left out to keep the budget, as a finding; None where nothing was, or where it was said before.

    Args:
        place: of a run that is trained.
    """
    if any(finding.check == "budget" for finding in place.findings):
        return None
    cuts, later = place.events_named("cut_while_training"), place.events_named("probe_rows")
    sentences = []
    evidence: dict[str, object] = {}
    if cuts:
        first, last = cuts[0], cuts[-1]
        steps = (
            f"the run was cut from {first['before']:,} to {last['total']:,} steps"
            if last["total"] < first["before"]
            else "evaluations were left out"
        )
        sentences.append(f"{first['why']}: {steps} to keep the {duration(first['budget'])} budget")
        evidence |= {"budget": first["budget"], "from": first["before"], "to": last["total"], "at": [cut["step"] for cut in cuts], "seconds_a_step": last["a_step"], "planned": last["planned"]}  # fmt: skip
    if later:
        last = later[-1]
        sentences.append(
            f"for the verdict {last['left']:.0f} s were left of {last['expected']:.0f} needed: "
            + (
                f"the baselines were fitted on {last['probe_rows']:,} and {last['words_rows']:,} training rows"
                if last["rows"]
                else "ROUGE-L was left out"
            )
        )
        evidence |= {"probe_rows": last["probe_rows"], "words_rows": last["words_rows"]}
    if not sentences:
        return None
    return Finding(check="budget", severity="warning", claim="; ".join(sentences), evidence=evidence,
                   remedy="run it again with a longer --budget, or when the machine is free, for the steps that were planned")  # fmt: skip
