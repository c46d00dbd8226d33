"""Trying small, and deciding once how far the large run goes."""

from __future__ import annotations

import math
import shutil

from luthier.core.errors import DiskFull, NoGo
from luthier.core.finding import Finding
from luthier.core.randomness import permutation
from luthier.core.run import Run, write_file
from luthier.core.types import Scores
from luthier.core.words import plural, size
from luthier.data.batches import steps_in_epoch
from luthier.evaluation import baselines
from luthier.evaluation.metrics import measure
from luthier.experiment import Experiment
from luthier.pilot.stages.features import Features
from luthier.pilot.stages.samples import SHOWN
from luthier.pilot.stages.way import Way
from luthier.training.forecast import disk, peak
from luthier.training.smoke import Smoke, smoke
from luthier.training.steps import Work

RESERVE_SHARE = 0.03
PROBED = 600
"""Training rows, and half as many validation rows, on which the small run tries whether the labels can be told from the text."""


def planned(way: Way, experiment: Experiment) -> Experiment:
    """The small run, its verdict, and what a time budget leaves of the epochs: decided once, then obeyed.

    Raises:
        NoGo: the small run says that the large one would be wasted, and nobody insisted.
    """
    place, face = way.place, way.face
    created = place.happened("created")[-1]
    forced = bool(place.happened("forced"))
    if place.happened("planned"):
        return experiment
    face.stage("smoke", "a small run first")
    budget = created["budget"] or math.inf
    probe, prior = _probed(way, experiment)
    way.signals.poll()
    found = smoke(way.work(experiment), face, probe, prior, limit=0.15 * budget)
    way.signals.poll()
    work = way.work(experiment)
    if found.go or forced:
        experiment = _within(way, experiment, work, found, budget)
        if found.tokens:
            place.event("shrunk_before", tokens=found.tokens)
            face.say(f"memory is enough for {found.tokens:,} tokens at once: training.micro_batch_tokens is set to that")
            experiment = experiment.replace("training.micro_batch_tokens", found.tokens)
    forecast = _forecast(work, found, experiment, probe)
    findings = [*found.findings, forecast, *_space(place, work)]
    place.find(*findings)
    for each in findings:
        face.finding(each)
    if not found.go and not forced:
        reasons = "; ".join(each.claim for each in found.findings if each.severity == "stop" and each.check != "smoke")
        place.event("no_go", reasons=reasons)
        remedy = next((each.remedy for each in found.findings if each.severity == "stop" and each.remedy), "")
        raise NoGo(f"no-go after a small run: {reasons}", f"{remedy}; or insist: `luthier resume {place.folder} --force`")
    write_file(place.folder / "experiment.yaml", experiment.yaml())
    place.event("planned", steps=experiment.total_steps(len(work.train)), seconds_a_token=found.seconds_a_token, forecast=forecast.evidence)
    return experiment


def _space(place: Run, work: Work) -> list[Finding]:
    """A disk that will be too small, before anything is computed for it.

    Raises:
        DiskFull: what the run writes at the very least has no room.
    """
    least, most = disk(work)
    free = shutil.disk_usage(place.folder).free
    remedy = "free some space, choose an --out on another disk, or let less move (--set adaptation.kind=lora)"
    if free < least:
        raise DiskFull(f"the run writes {size(least)} to {size(most)}, and {place.folder} has {size(free)} left",
                       f"{remedy}; then `luthier resume {place.folder}`")  # fmt: skip
    if free >= most:
        return []
    claim = f"the disk may fill up: the run writes {size(least)} to {size(most)}, and {size(free)} are left"
    return [Finding(check="disk", severity="warning", claim=claim, evidence={"least": least, "most": most, "free": free}, remedy=remedy)]


def _probed(way: Way, experiment: Experiment) -> tuple[Scores | None, Scores | None]:
    """What a logistic regression on the frozen base, and the class shares alone, make of a few validation rows."""
    if way.intake.spec.task == "chat":
        return None, None
    classes = len(way.intake.labels)
    train, validation = way.examples("train"), way.examples("validation")
    train = [train[row] for row in sorted(permutation(len(train), experiment.seed, "probe")[:PROBED])]
    validation = [validation[row] for row in sorted(permutation(len(validation), experiment.seed, "probe")[: PROBED // 2])]
    with Features(way, experiment) as features:
        probe = baselines.frozen(way.base.name, features, train, validation, classes)
    return probe.validation, baselines.majority(train, validation, classes).validation


def _costs(work: Work, found: Smoke) -> tuple[float, float]:
    """Seconds of one training step, and of one look at the validation rows."""
    mean = sum(len(example.tokens) for example in work.train) / len(work.train)
    batch = min(work.experiment.training.batch_size, len(work.train))
    return mean * batch * found.seconds_a_token, sum(len(example.tokens) for example in work.validation) * found.seconds_a_scored_token


def _within(way: Way, experiment: Experiment, work: Work, found: Smoke, budget: float) -> Experiment:
    """Cut the steps to what the budget leaves after everything else."""
    if budget == math.inf:
        return experiment
    step, look = _costs(work, found)
    looks_a_step = experiment.training.evaluations_per_epoch / steps_in_epoch(len(work.train), experiment.training.batch_size)
    tests = len(way.intake.records["test"]) / max(len(work.validation), 1)
    rivals = tests  # the untouched base and the trivial models look at the test rows too
    if way.intake.spec.task != "chat":
        rivals += 1 + min(len(work.train), baselines.MOST) / max(len(work.validation), 1)  # and are fitted first
    closing = look * (tests + rivals) + 4.0 + RESERVE_SHARE * budget
    closing += 2 * SHOWN * 64 * 0.03 if way.intake.spec.task == "chat" else 0
    left = budget - way.spent - closing
    affordable = int(left / (step * 1.05 + (look + 0.3) * looks_a_step))
    wanted = experiment.total_steps(len(work.train))
    if affordable >= wanted:
        return experiment
    steps = max(1, affordable)
    way.place.event("cut_to_budget", wanted=wanted, steps=steps, budget=budget)
    way.face.say(f"the budget of {budget:.0f} s is enough for {steps:,} of {plural(wanted, 'step')}")
    return experiment.replace("training.steps", steps)


def _forecast(work: Work, found: Smoke, experiment: Experiment, probe: Scores | None) -> Finding:
    """Time and quality, before they are paid for."""
    step, look = _costs(work, found)
    total = experiment.total_steps(len(work.train))
    per_epoch = steps_in_epoch(len(work.train), experiment.training.batch_size)
    seconds = total * step + (total / per_epoch * experiment.training.evaluations_per_epoch + 1) * look
    name = work.objective.metrics[0]
    floor = measure(probe, (name,))[name] if probe is not None else found.findings[-1].evidence["after"][name]
    quality = f"validation {name} about {floor:.3f} or better" if probe is not None else f"validation {name} about {floor:.3f} or lower"
    moving = sum(master.numel() for master in work.masters.weights().values())
    parameters = sum(parameter.numel() for parameter in work.model.network.parameters())
    claim = f"{moving / 1e6:.1f} of {parameters / 1e6:.1f} million parameters are trained; {plural(total, 'step')} in about {seconds:.0f} s; {size(peak())} of memory so far; {quality}"
    return Finding(check="forecast", claim=claim,
                   evidence={"parameters": parameters, "moving": moving, "memory_so_far": peak(), "steps": total, "seconds": seconds, "metric": name, "expected": floor, "a_step": step, "an_evaluation": look})  # fmt: skip
