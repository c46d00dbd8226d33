"""Make the small run, forecast the large one, and cut it to a time budget; decided once."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.errors import DiskFull, NoGo
from luthier.core.finding import Finding
from luthier.core.randomness import permutation
from luthier.core.run import Run, write_file
from luthier.core.types import Example, Scores
from luthier.core.words import plural, size
from luthier.data.batches import steps_in_epoch
from luthier.evaluation import baselines
from luthier.evaluation.metrics import measure, metric_of
from luthier.experiment import Experiment
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.features import Features
from luthier.pilot.stages.finish_time import SHARE, ClosingCosts, count_words, fit_seconds
from luthier.pilot.stages.least_budget import ALWAYS, WRITTEN
from luthier.pilot.stages.samples import SHOWN
from luthier.pilot.stages.time_budget import fewest_steps, refuse_budget
from luthier.training.forecast import disk, peak
from luthier.training.small_run import Smoke, run_small
from luthier.training.steps import Work

RESERVE_SHARE = 0.03
PROBED = 600
"""Training rows, and half as many validation rows, on which the small run tries whether the labels can be told from the text."""
PROBED_SHORT = 200
"""The same where the fit would take more than `PROBE_SHARE` of the budget."""
PROBE_SHARE = 0.04


@dataclass(frozen=True)
class Probed:
    """What a linear model on the frozen base made of a few rows, and what it took.

    Args:
        scores: on the validation rows; None where there is no such model.
        prior: scores of who has not read the row.
        untold: what to say where the first are no better.
        a_token: seconds in which the untouched base reads a token.
        outputs: that are fitted.
        features: numbers that the base gives for a row.
        slower: its fit against what is expected of this many rows.
    """

    scores: Scores | None = None
    prior: Scores | None = None
    untold: str = ""
    a_token: float = 0.0
    outputs: int = 0
    features: int = 0
    slower: float = 1.0


def plan_training(context: RunContext, experiment: Experiment) -> Experiment:
    """The small run, its verdict, and what a time budget leaves of the epochs: decided once, then obeyed.

    Raises:
        NoGo: the small run says that the large one would be wasted, and nobody insisted.
    """
    run, reporter = context.run, context.reporter
    created = run.events_named("created")[-1]
    forced = bool(run.events_named("forced"))
    if run.events_named("planned"):
        return experiment
    reporter.stage("smoke", "a small run first")
    budget = created["budget"] or math.inf
    probed = fit_small_probe(context, experiment, budget)
    probe = probed.scores
    context.signals.poll()
    smoke = run_small(context.work(experiment), reporter, probe, probed.prior, probed.untold, limit=0.15 * budget)
    context.signals.poll()
    work = context.work(experiment)
    closing: dict[str, float] = {}
    if smoke.go or forced:
        costs = closing_costs(context, work, smoke, probed)
        experiment, closing = cut_to_budget(context, experiment, work, smoke, costs, budget)
        if smoke.tokens:
            run.event("shrunk_before", tokens=smoke.tokens)
            reporter.say(f"memory is enough for {smoke.tokens:,} tokens at once: training.micro_batch_tokens is set to that")
            experiment = experiment.replace("training.micro_batch_tokens", smoke.tokens)
    forecast = _forecast(work, smoke, experiment, probe)
    findings = [*smoke.findings, forecast, *_check_disk(run, work)]
    run.add_findings(*findings)
    for finding in findings:
        reporter.finding(finding)
    if not smoke.go and not forced:
        reasons = "; ".join(finding.claim for finding in smoke.findings if finding.severity == "stop" and finding.check != "smoke")
        run.event("no_go", reasons=reasons)
        remedy = next((finding.remedy for finding in smoke.findings if finding.severity == "stop" and finding.remedy), "")
        raise NoGo(f"no-go after a small run: {reasons}", f"{remedy}; or insist: `luthier resume {run.folder} --force`")
    write_file(run.folder / "experiment.yaml", experiment.yaml())
    run.event("planned", steps=experiment.total_steps(len(work.train)), seconds_a_token=smoke.seconds_a_token, forecast=forecast.evidence,
              **({"closing": closing, "probe_rows": closing["probe_rows"], "words_rows": closing["words_rows"]} if closing else {}))  # fmt: skip
    return experiment


def _check_disk(run: Run, work: Work) -> list[Finding]:
    """A disk that will be too small, before anything is computed for it.

    Raises:
        DiskFull: what the run writes at the very least has no room.
    """
    least, most = disk(work)
    free = shutil.disk_usage(run.folder).free
    remedy = "free some space, choose an --out on another disk, or let less move (--set adaptation.kind=lora)"
    if free < least:
        raise DiskFull(f"the run writes {size(least)} to {size(most)}, and {run.folder} has {size(free)} left",
                       f"{remedy}; then `luthier resume {run.folder}`")  # fmt: skip
    if free >= most:
        return []
    claim = f"the disk may fill up: the run writes {size(least)} to {size(most)}, and {size(free)} are left"
    return [Finding(check="disk", severity="warning", claim=claim, evidence={"least": least, "most": most, "free": free}, remedy=remedy)]


def fit_small_probe(context: RunContext, experiment: Experiment, budget: float = math.inf) -> Probed:
    """What a linear model on the frozen base, and who has not read the row, make of a few validation rows.

    Args:
        context: knows the rows.
        experiment: of the run.
        budget: seconds; where the fit would take much of a short one, the rows are fewer.
    """
    outputs = context.outputs
    if outputs is None or context.base is None:
        return Probed()
    count = outputs.count(context.objective)
    expected = fit_seconds(PROBED, 3 * context.base.width, count)
    most = PROBED if expected <= PROBE_SHARE * budget else PROBED_SHORT
    train, validation = context.examples("train"), context.examples("validation")
    train = [train[row] for row in sorted(permutation(len(train), experiment.seed, "probe")[:most])]
    validation = [validation[row] for row in sorted(permutation(len(validation), experiment.seed, "probe")[: most // 2])]
    reading, width = 0.0, 1
    with Features(context, experiment) as features:

        def time_features(examples: Sequence[Example]) -> np.ndarray:
            nonlocal reading, width
            began = time.monotonic()
            rows = features(examples)
            reading, width = reading + time.monotonic() - began, rows.shape[1]
            return rows

        began = time.monotonic()
        probe = outputs.fit_probe(time_features, context.objective, train, validation, baselines.MOST, context.signals.poll)
        fitting = time.monotonic() - began - reading
    tokens = sum(example.size for example in [*train, *validation])
    slower = min(10.0, max(0.5, fitting / fit_seconds(len(train), width, count)))
    prior = outputs.score_prior(context.objective, train, validation)
    return Probed(probe.validation, prior, outputs.untold, reading / max(tokens, 1), count, width, slower)


def _measure_costs(work: Work, smoke: Smoke) -> tuple[float, float]:
    """Seconds of one training step, and of one look at the validation rows."""
    mean = sum(example.size for example in work.train) / len(work.train)
    batch = min(work.experiment.training.batch_size, len(work.train))
    return mean * batch * smoke.seconds_a_token, sum(example.size for example in work.validation) * smoke.seconds_a_scored_token


def closing_costs(context: RunContext, work: Work, found: Smoke, probed: Probed) -> ClosingCosts:
    """What verdict, bundle and report take, from what was measured in the small run.

    Args:
        context: knows the rows.
        work: of the run.
        found: by the small run.
        probed: by the small fit on the base.
    """
    _, look = _measure_costs(work, found)
    alone = not context.probes
    records = context.dataset.records
    more = len(records["test"]) / max(len(records["validation"]), 1)  # of the rows: an example may be a part of one
    scored = look * more
    train, validation = (sum(example.size for example in part) for part in (work.train, work.validation))
    read = scored if alone else probed.a_token * validation * (1 + more)
    weights = sum(parameter.numel() for parameter in work.model.network.parameters())
    fixed = ALWAYS + look + scored + read + 2 * 4 * weights / WRITTEN
    if alone:
        return ClosingCosts(fixed + (2 * SHOWN * 64 * 0.03 if context.family.generates else 0.0), len(work.train))
    ngrams, sample, distinct, growth = count_words(work.train, work.experiment.data.input)
    return ClosingCosts(fixed, len(work.train), probed.outputs, probed.a_token * train / max(len(work.train), 1), probed.features,
                        ngrams, sample, distinct, growth, probed.slower)  # fmt: skip


def cut_to_budget(
    context: RunContext, experiment: Experiment, work: Work, found: Smoke, costs: ClosingCosts, budget: float
) -> tuple[Experiment, dict[str, float]]:
    """Cut the steps to what the budget leaves after everything else, and the rows that the baselines are fitted on to what the closing may take.

    Args:
        context: of the run.
        experiment: as it begins.
        work: of the run.
        found: by the small run.
        costs: of the closing.
        budget: seconds; infinite where there is none.

    Returns:
        The experiment, and what was decided for the closing.

    Raises:
        ExperimentError: not even the smallest training fits into the budget.
    """
    if budget == math.inf:
        return experiment, {}
    step, look = _measure_costs(work, found)
    looks_a_step = experiment.training.evaluations_per_epoch / steps_in_epoch(len(work.train), experiment.training.batch_size)
    planned = experiment.total_steps(len(work.train))
    least = 1 if context.run.events_named("forced") else fewest_steps(context, planned)
    a_step = step * 1.05 + (look + 0.3) * looks_a_step
    affordable, rows = 0, (0, 0)
    for share in (SHARE, 0.0):  # where too little would be left for the training, the baselines get the fewest rows
        rows = costs.rows_within(share * budget)
        left = budget * (1 - RESERVE_SHARE) - context.spent - costs.seconds(*rows)
        affordable = int(left / a_step)
        if affordable >= least:
            break
    if affordable < least and not context.run.events_named("forced"):
        refuse_budget(context, budget, 1.05 * (context.spent + costs.seconds(*rows) + least * a_step + look) / (1 - RESERVE_SHARE))
    closing = describe_closing(context, costs, rows, found)
    if affordable >= planned:
        return experiment, closing
    steps = max(1, affordable)
    context.run.event("cut_to_budget", wanted=planned, steps=steps, budget=budget)
    context.reporter.say(f"the budget of {budget:.0f} s is enough for {steps:,} of {plural(planned, 'step')}")
    return experiment.replace("training.steps", steps), closing


def describe_closing(context: RunContext, costs: ClosingCosts, rows: tuple[int, int], found: Smoke) -> dict[str, float]:
    """What is kept of the closing's costs: its parts in seconds, and on how many rows the baselines are fitted.

    Args:
        context: of the run; is told where the rows are fewer than there are.
        costs: of the closing.
        rows: for the probe and for TF-IDF.
        found: by the small run.
    """
    probe, words = rows
    if context.outputs is not None and (probe < min(costs.rows, baselines.MOST) or words < costs.rows):
        context.reporter.say(
            f"so that the verdict comes in time, {context.outputs.probe} is fitted on {probe:,} training rows on the base, and on {words:,} on TF-IDF"
        )
    fitted = (costs.probe(probe), costs.words(words)) if costs.classes else (0.0, 0.0)
    before = SHOWN * 64 * 0.03 if not costs.classes else 0.0  # answers of the untouched base: before the training
    return {"fixed": costs.fixed, "probe": fitted[0], "words": fitted[1], "before": before, "probe_rows": probe, "words_rows": words,
            "fewest": costs.fewest, "a_scored_token": found.seconds_a_scored_token}  # fmt: skip


def _forecast(work: Work, smoke: Smoke, experiment: Experiment, probe: Scores | None) -> Finding:
    """Time and quality, before they are paid for."""
    step, look = _measure_costs(work, smoke)
    total = experiment.total_steps(len(work.train))
    per_epoch = steps_in_epoch(len(work.train), experiment.training.batch_size)
    seconds = total * step + (total / per_epoch * experiment.training.evaluations_per_epoch + 1) * look
    name = work.objective.metrics[0]
    floor = measure(probe, (name,))[name] if probe is not None else smoke.findings[-1].evidence["after"][name]
    end = "better" if probe is not None or metric_of(name).higher else "lower"
    quality = f"validation {name} about {floor:.3f} or {end}"
    moving = sum(master.numel() for master in work.masters.weights().values())
    parameters = sum(parameter.numel() for parameter in work.model.network.parameters())
    claim = f"{moving / 1e6:.1f} of {parameters / 1e6:.1f} million parameters are trained; {plural(total, 'step')} in about {seconds:.0f} s; {size(peak())} of memory so far; {quality}"
    return Finding(check="forecast", claim=claim,
                   evidence={"parameters": parameters, "moving": moving, "memory_so_far": peak(), "steps": total, "seconds": seconds, "metric": name, "expected": floor, "a_step": step, "an_evaluation": look})  # fmt: skip
