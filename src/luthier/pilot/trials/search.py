"""Run a search: trials by successive halving; the winner becomes a finished run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence

from luthier.core.finding import Finding
from luthier.core.run import write_file
from luthier.core.study import Study
from luthier.core.words import plural
from luthier.delivery.study import write_study
from luthier.experiment import Experiment
from luthier.pilot.stages.base_similarity import compare_base
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.finish import judge_and_package
from luthier.pilot.stages.finish_time import limit_baseline_rows, read_planned_closing
from luthier.pilot.stages.samples import write_samples
from luthier.pilot.stages.time_budget import tell_cuts, time_limit
from luthier.pilot.trials.decay_branch import choose_decay_branch
from luthier.pilot.trials.findings import RemoteProgress, SearchProgress
from luthier.pilot.trials.findings import search_findings as outcome
from luthier.pilot.trials.local import LocalTrial, TrialPool
from luthier.studies.backends import Backend, backend_of
from luthier.studies.decay_branches import SHAPES, may_set_schedule, with_stable_phase
from luthier.studies.defaults import FREEZING, space_for
from luthier.studies.plan import SearchPlan, SearchRequest
from luthier.studies.rungs import cost_of, rungs_for, trials_within
from luthier.studies.space import named_paths, parse_point, value_at
from luthier.studies.successive_halving import SuccessiveHalving, Trial
from luthier.training.deadline import LATE

FEWEST = 1.2
"""Runs that a budget must be worth for a search; below, the default alone is trained."""
ENOUGH = 2.0
"""Runs that the time must be worth where nobody asked for a search."""
COMES_AND_GOES = 1.2
"""What a search takes of its steps' time, for trials that are put aside and taken up again (docs/log/2026-11.md#a-budget-that-is-kept)."""
MOST = 3.0
"""Runs that a search costs at most where nobody asked for one: what a longer budget buys is small (docs/search.md)."""


def should_search(context: RunContext, experiment: Experiment) -> bool:
    """Whether the run is a search: it was asked for, or the time that a run was given is enough for one; decided once.

    Args:
        context: of a run that is planned.
        experiment: as planned.
    """
    run = context.run
    if run.events_named("searching"):
        return True
    created = run.events_named("created")[-1]
    if created["stay"] is None or not created["budget"] or run.events_named("started") or run.events_named("cut_to_budget"):
        return False
    runs = min(MOST, _affordable_runs(context, created["budget"]))
    if runs < ENOUGH:
        return False
    steps = experiment.total_steps(len(context.examples("train")))
    trials = trials_within(
        runs, float(value_at(experiment, "schedule.warmup")), steps, may_set_schedule(experiment, created["stay"], context.base)
    )
    if trials < 2 or not space_for(experiment, trials, created["stay"])[0]:
        return False
    context.reporter.say(f"the budget is enough for a search: {plural(trials, 'trial')}; the one that wins is the final model")
    SearchRequest(experiment.seed, created["stay"], runs).note(run)
    return True


def run_search(context: RunContext, experiment: Experiment) -> Study:
    """Race the trials, and take the one that is left to its end, through verdict, bundle and report.

    Args:
        context: of the study.
        experiment: the default.

    Raises:
        Stopped: a signal came; the study can be resumed.
    """
    study, reporter = Study(context.run.folder), context.reporter
    request = SearchRequest.of(study)
    assert request is not None
    plan = _plan_search(context, experiment, study, request)
    if plan.ends:
        experiment = with_stable_phase(experiment)
    with _backend(request, study, experiment) as backend:
        stable, metric = TrialPool(context, experiment, backend), experiment.training.metric
        late = lateness_check(context, study, plan)
        race = SuccessiveHalving(study, plan.space, plan.sampler, plan.seed, plan.rungs, stable.open_trial, context.clock, SearchProgress(reporter, context.clock, metric), plan.portfolio,
                    request.workers, RemoteProgress(study.folder, reporter, context.signals.poll), metric, late)  # fmt: skip
        if not study.entries_named("won"):
            reporter.stage("search", f"{plural(plan.trials, 'trial')}, about {plan.runs:.2f} runs with the final model")
        with stable.suspend_when_stopped():
            trial, entrant = race.run()
            if not isinstance(entrant, LocalTrial):  # others have brought it here; from now on it is ours
                entrant = LocalTrial(stable, trial)
            dropped = sorted(race.timed_out)
            if dropped:
                reporter.say(
                    f"the time is short: {len(dropped)} of {plural(plan.trials, 'trial')} were left out, so that the best one comes to its end"
                )
            if not entrant.context.run.events_named("trained") and entrant.context.run.verdict is None:
                reporter.stage("train", f"trial {trial.number} to its end")
            entrant.set_time_limit(time_limit(context))
            entrant = choose_decay_branch(study, plan, race, entrant, reporter, late)
    findings = [] if study.events_named("chosen") else outcome(study, plan, race, trial)
    study.add_findings(*findings)
    for finding in findings:
        reporter.finding(finding)
    study.event("chosen", trial=trial.number, values=trial.values)
    _finish_winner(study, context, trial, entrant, findings)
    _link_bundle(study, entrant)
    for folder in [*(study.folder / "trials").rglob("checkpoints")]:  # the weights of the others can be trained again to the byte
        if folder.parent != entrant.context.run.folder:
            shutil.rmtree(folder, ignore_errors=True)
    study.event("finished", trial=trial.number, seconds=round(context.spent, 2))
    write_study(study)
    return study


@contextlib.contextmanager
def _backend(request: SearchRequest, study: Study, experiment: Experiment) -> Iterator[Backend | None]:
    """Who computes the trials."""
    if request.workers == 1:
        yield None
        return
    kind = backend_of(request.backend)
    backend = kind(
        "luthier.pilot.trials.worker:advance_trial", request.workers, experiment.environment["threads"], study.folder / "workers"
    )
    try:
        yield backend
    finally:
        backend.close()


def lateness_check(context: RunContext, study: Study, plan: SearchPlan) -> Callable[[float], bool]:
    """A function that tells whether the time left is too short for so many more runs of the default and the closing.

    Args:
        context: of the study.
        study: its ledger says how long the trials took.
        plan: of the search.
    """
    limit = time_limit(context)
    if limit is None:
        return lambda runs: False
    run_seconds = context.run.events_named("planned")[-1]["forecast"]["seconds"]
    shares = [0.0, *(rung.share for rung in plan.rungs)]

    def is_late(runs: float) -> bool:
        stood = [entry for entry in study.entries_named("standing") if not entry["why"] and not plan.rungs[entry["rung"]].falls][-2:]
        ratios = [entry["seconds"] / max((entry["share"] - shares[entry["rung"]]) * run_seconds * COMES_AND_GOES, 1e-9) for entry in stood]
        slower = max(1.0, min(ratios, default=1.0))
        return limit.spent() + (runs * run_seconds + limit.closing) * slower > limit.seconds * LATE

    return is_late


def _affordable_runs(context: RunContext, seconds: float) -> float:
    """How many runs of the default the rest of so many seconds pays for, once the verdict is paid."""
    forecast = context.run.events_named("planned")[-1]["forecast"]
    limit = time_limit(context)
    left = seconds - context.spent - (limit.closing if limit else forecast["an_evaluation"] * 6) - 0.05 * seconds
    return left / max(forecast["seconds"] * COMES_AND_GOES, 1e-9)


def _plan_search(context: RunContext, experiment: Experiment, study: Study, request: SearchRequest) -> SearchPlan:
    """How many trials, over what, and where they are compared: written down before the first."""
    file = study.folder / "plan.yaml"
    if file.exists():
        return SearchPlan.load(file)
    runs = request.runs
    if runs is None:
        runs = _affordable_runs(context, request.seconds or 0.0)
        if study.events_named("cut_to_budget") or runs < FEWEST:
            context.reporter.say(f"the budget is worth {max(runs, 0):.1f} runs: too little for a search; the default is trained")
            runs = 1.0
    warmup = float(value_at(experiment, "schedule.warmup"))
    steps = experiment.total_steps(len(context.examples("train")))
    names = [path for text in request.points for path in named_paths(text)]
    ends = may_set_schedule(experiment, [*request.fixed, *names, *(text.partition("=")[0].strip() for text in request.space)], context.base)
    trials = request.trials or trials_within(runs, warmup, steps, ends)
    fixed = [*request.fixed, *(["training.batch_size"] if experiment.training.steps else [])]
    depths = _depths_to_try(context, experiment, trials, [*fixed, *(text.partition("=")[0].strip() for text in request.space)])
    space, stay = space_for(experiment, trials, fixed, request.space, names, depths, ends and trials > 1, context.base)
    if not space:
        trials = 1
    tried = [parse_point(text, space) for text in request.points]
    ends = ends and trials > 1
    rungs = rungs_for(trials, warmup, steps, ends)
    falls = () if not ends else SHAPES if request.trials or cost_of(rungs, len(SHAPES)) <= runs else SHAPES[:1]
    plan = SearchPlan(
        trials,
        rungs,
        space,
        stay,
        request.sampler,
        request.seed,
        cost_of(rungs, max(1, len(falls))),
        tuple(tried[: trials - 1]),
        falls,
    )
    write_file(file, plan.yaml())
    for dimension in space if trials > 1 else ():
        context.reporter.say(f"  {dimension.as_text()}  ({dimension.why})")
    for path, why in stay.items() if trials > 1 else ():
        context.reporter.say(f"  {path} is not searched: {why}")
    return plan


def _depths_to_try(context: RunContext, experiment: Experiment, trials: int, settled: Sequence[str]) -> Sequence[int]:
    """Blocks that may be worth freezing, by one pass over the rows; none where freezing is not searched by itself.

    Args:
        context: of the study.
        experiment: the default.
        trials: of the search.
        settled: paths about which the person has said something.
    """
    least = min(trials for trials, _ in FREEZING)
    if (
        context.base is None
        or context.family.kind.images
        or not ((context.family.kind.classes and context.probes) or context.family.converses)
    ):
        return ()  # nothing pretrained, or nothing that one pass could tell
    if trials < least or value_at(experiment, "adaptation.kind") != "full" or any(path.startswith("adaptation.") for path in settled):
        return ()
    similarity = compare_base(context.base, context.dataset, context.reporter)
    context.run.write_json("similar.json", similarity.value())
    worth = [blocks for blocks in (similarity.depth.blocks, *similarity.depth.others) if blocks]
    if worth:
        context.reporter.say(f"  freezing {' or '.join(map(str, worth))} blocks may be tried: {similarity.depth.reason}")
    return worth


def _finish_winner(study: Study, context: RunContext, trial: Trial, runner: LocalTrial, findings: Sequence[Finding]) -> None:
    """Train the winner to its end and take it through verdict, bundle and report: it is a run like any other."""
    run = runner.context.run
    experiment = runner.experiment
    if run.verdict is None or not (run.folder / "bundle" / "luthier.json").exists():
        if context.family.generates:
            write_samples(runner.context, runner.context.work(experiment), "before")
        if not run.events_named("chosen"):
            run.add_findings(*findings)
            run.event("chosen", study=study.folder.name, trial=trial.number)
        fit = runner.training()
        runner.reporter.chosen = True
        best = fit.finish()
        closing = read_planned_closing(study)
        if closing and not run.events_named("closing_planned"):
            run.event("closing_planned", probe_rows=closing["probe_rows"], words_rows=closing["words_rows"])
        limit_baseline_rows(runner.context, fit.work, time_limit(context), closing)
        tell_cuts(run, context.reporter)
        judge_and_package(runner.context, experiment, fit.work, best)
    values = [f"{path} {value_at(experiment, path)}" for path in trial.values]
    context.reporter.say(f"the model of trial {trial.number} ({', '.join(values)}) is in {run.folder / 'bundle'}")


def _link_bundle(study: Study, runner: LocalTrial) -> None:
    """The winner's bundle, where that of a run would be."""
    link, bundle = study.folder / "bundle", runner.context.run.folder / "bundle"
    if link.exists():
        return
    try:
        link.symlink_to(bundle.relative_to(study.folder))
    except OSError:  # a file system without links
        shutil.copytree(bundle, link)
