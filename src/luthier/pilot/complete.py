"""Take a run folder through all stages to its end; a run that was interrupted goes on where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from luthier.core.errors import RunError
from luthier.core.interfaces import Reporter, Watcher
from luthier.core.run import Clock, Run, write_file
from luthier.core.words import plural
from luthier.data.dataset import Dataset
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.models.base import PADDED, Base
from luthier.models.memory import release_memory
from luthier.models.pretrained import PLAIN
from luthier.models.store import resolve
from luthier.pilot.stages.compile_kernels import compile_where_it_is_faster
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.cross_validation import cross_validate
from luthier.pilot.stages.elapsed import count_seconds, earlier_seconds
from luthier.pilot.stages.finish import finish, judge_and_package
from luthier.pilot.stages.finish_time import limit_baseline_rows, read_planned_closing
from luthier.pilot.stages.least_budget import check_budget_of_base
from luthier.pilot.stages.options import limit_to_positions
from luthier.pilot.stages.plan_training import plan_training
from luthier.pilot.stages.prove import prove_loss
from luthier.pilot.stages.samples import write_samples
from luthier.pilot.stages.set_threads import set_threads
from luthier.pilot.stages.time_budget import check_budget, tell_cuts, time_limit
from luthier.pilot.trials.search import run_search, should_search
from luthier.studies.plan import SearchRequest
from luthier.training.assemble import open_objective
from luthier.training.devices import (
    configure_torch,
    decide_device_fields,
    environment,
    environment_differences,
    restore_threads,
)
from luthier.training.train import Fit
from luthier.training.watchers import Signals


def complete(
    place: Run,
    experiment: Experiment,
    dataset: Dataset,
    reporter: Reporter,
    clock: Clock,
    watchers: Sequence[Watcher] = (),
    inexact: Sequence[str] | None = None,
) -> Run:
    """Take the run, or the search, through every stage that it has not been through.

    Args:
        place: the run.
        experiment: as it stands in the run.
        dataset: its rows.
        reporter: shows progress.
        clock: seconds since the command began.
        watchers: called after every training step.
        inexact: what is known to differ from when the run began, where a person goes on all the same; None refuses.

    Returns:
        The run, finished; or the study that it has become.

    Raises:
        NoGo: the small run says that the large one would be wasted.
        Stopped: a signal came; the run can be resumed.
    """
    configure_torch()
    try:
        return _run_stages(place, experiment, dataset, reporter, clock, watchers, inexact)
    finally:
        release_memory()  # a notebook lives on


def _run_stages(
    run: Run,
    experiment: Experiment,
    dataset: Dataset,
    reporter: Reporter,
    clock: Clock,
    watchers: Sequence[Watcher],
    inexact: Sequence[str] | None,
) -> Run:
    """Every stage, in its order."""
    request = SearchRequest.of(run)
    workers = request.workers if request and request.backend == "processes" else 1
    before = earlier_seconds(run)
    with count_seconds(run, clock, before), note_interruption(run, clock), Signals(reporter.say) as signals, restore_threads():
        if run.verdict is not None and (run.folder / "bundle" / "luthier.json").exists() and not run.events_named("searching"):
            finish(run, reporter, run.verdict)
            return run
        context, experiment = open_context(run, experiment, dataset, reporter, clock, signals, inexact, workers)
        context.before = before
        check_budget(context, experiment)
        prove_loss(context, experiment)
        experiment = plan_training(context, experiment)
        if should_search(context, experiment):
            return run_search(context, experiment)
        cross_validate(context, experiment)
        if not run.events_named("trained"):
            reporter.stage("train", plural(experiment.total_steps(len(context.examples("train"))), "step"))
        work = context.work(experiment)
        if context.family.generates:
            write_samples(context, work, "before")
        run.event("started", clock=clock())
        limit = time_limit(context)
        best = Fit(run, work, reporter, signals, watchers, limit).finish()
        limit_baseline_rows(context, work, limit, read_planned_closing(run))
        tell_cuts(run, reporter)
        judge_and_package(context, experiment, work, best)
    return run


def open_context(
    place: Run,
    experiment: Experiment,
    dataset: Dataset,
    reporter: Reporter,
    clock: Clock,
    signals: Signals,
    inexact: Sequence[str] | None = None,
    workers: int = 1,
) -> tuple[RunContext, Experiment]:
    """What the stages share, and the experiment with what depends on the machine decided; from here on its threads are in use."""
    reporter.stage("base", experiment.model.base)
    family = family_of(dataset.spec.task)
    base = family.read_base(resolve(experiment.model.base, reporter.say)) if experiment.model.base else None
    experiment, shorter = limit_to_positions(experiment, base)
    if shorter is not None:
        place.event("shorter", field=shorter.path, value=shorter.value, why=shorter.reason)
        reporter.say(f"{shorter.path} = {shorter.value}  ({shorter.reason})")
    check_budget_of_base(place, base, earlier_seconds(place) + clock())
    tokenizer: Any = family.load_processor(base, experiment.objective, dataset)
    if base is not None and base.family in PADDED and not place.events_named("padded"):
        place.event("padded", family=base.family)
        reporter.say(
            f"{base.name}: the attention of {base.family} has no way in for packed rows, so rows of similar length are padded: slower, with the same results"
        )
    if base is not None and family.generates and tokenizer.chat_template == PLAIN and not place.events_named("plain_template"):
        place.event("plain_template")
        reporter.say(f"{base.name} brings no chat template: turns are laid out as 'User: …' and 'Assistant: …', in the bundle too")
    compile_where_it_is_faster(place, experiment, base, reporter)
    experiment = _settle_machine(place, experiment, base, reporter, inexact, workers)
    return RunContext(place, dataset, reporter, clock, signals, base, tokenizer, open_objective(experiment, tokenizer)), experiment


@contextlib.contextmanager
def note_interruption(place: Run, clock: Clock) -> Iterator[None]:
    """Seconds that were spent before an interruption belong to the run."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RunError):  # the disk may be what failed
            place.event("interrupted", seconds=round(clock(), 2))
        raise


def _settle_machine(
    run: Run, experiment: Experiment, base: Base | None, reporter: Reporter, inexact: Sequence[str] | None, workers: int
) -> Experiment:
    """Decide once what depends on the machine, or check that nothing of it has changed."""
    weights = base.fingerprint if base is not None else ""
    if set(experiment.environment) <= {"threads"}:
        if experiment.model.fingerprint not in ("", weights):
            raise RunError(
                f"the weights of {experiment.model.base} are not those this experiment was made for",
                "put the old base back, or empty model.fingerprint",
            )
        set_threads(run, reporter, experiment.environment.get("threads"), workers)
        settled = decide_device_fields(experiment, base).replace("model.fingerprint", weights)
        settled = settled.model_copy(update={"environment": environment()})
        write_file(run.folder / "experiment.yaml", settled.yaml())
        return settled
    set_threads(run, reporter, experiment.environment["threads"], workers)
    differs = environment_differences(experiment.environment)
    if experiment.model.fingerprint != weights:
        differs.append("model.base: the weights are not those the run began with")
    differs += inexact or []
    if differs and inexact is None:
        raise RunError("this is not the machine or the software the run began with; it would not give the same bits:\n  " + "\n  ".join(differs),
                       f"resume where it began, start a new run (`luthier train {run.folder}/experiment.yaml`), or go on all the same: `luthier resume {run.folder} --allow-inexact`")  # fmt: skip
    if differs:
        run.event("inexact", differences=differs)
    return experiment
