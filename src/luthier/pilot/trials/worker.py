"""The worker's side of a remote trial: train it on from its newest checkpoint, and save it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError, RunError
from luthier.core.interfaces import NullReporter
from luthier.core.run import Clock, Run
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.metric import confirm_metric
from luthier.pilot.trials.local import LocalTrial, TrialPool
from luthier.studies.decay_branches import with_stable_phase
from luthier.studies.plan import SearchPlan
from luthier.studies.successive_halving import Trial
from luthier.training.assemble import open_objective
from luthier.training.devices import configure_torch, environment_differences, use_threads
from luthier.training.watchers import Signals


def advance_trial(question: dict[str, Any]) -> dict[str, Any]:
    """Bring a trial on from its newest checkpoint, and leave it on the disk.

    Args:
        question: the study's folder, the trial's number and values, and how far it is to come.

    Returns:
        Its score and losses; or its problem.
    """
    stable = open_pool(question["study"])
    runner = LocalTrial(stable, Trial(question["trial"], question["values"], ""))
    run = runner.context.run
    try:
        with _lock_trial(run):
            differs = environment_differences(runner.experiment.environment)
            if differs and not run.events_named("inexact"):
                run.event("inexact", differences=differs)
            score, losses = (runner.train_branch if question["ends"] else runner.advance)(question["share"])
            runner.suspend()
    except LuthierError as problem:
        return {"problem": problem.message, "remedy": problem.remedy, "kind": type(problem).__name__}
    return {"score": score, "losses": losses.tolist(), "numbers": str(losses.dtype)}


@functools.lru_cache(1)
def open_pool(study: str) -> TrialPool:
    """A study as one who only trains its trials sees it: its rows and its base are read once."""
    run = Run.open(Path(study))
    experiment = Experiment.load(run.folder / "experiment.yaml")
    confirm_metric(run, experiment)
    plan = run.folder / "plan.yaml"
    if plan.exists() and SearchPlan.load(plan).ends:
        experiment = with_stable_phase(experiment)
    configure_torch()
    use_threads(experiment.environment["threads"])
    dataset = load_dataset(experiment.data, checks=())
    base = resolve(experiment.model.base) if experiment.model.base else None
    tokenizer = family_of(dataset.spec.task).load_processor(base, experiment.objective, dataset)
    context = RunContext(run, dataset, NullReporter(), Clock(), Signals(), base, tokenizer, open_objective(experiment, tokenizer))
    return TrialPool(context, experiment)


@contextlib.contextmanager
def _lock_trial(run: Run) -> Iterator[None]:
    """Be the trial's one writer; one whose coordinator was killed needs a moment to notice."""
    for turn in range(20):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(run.lock())
            except RunError:
                if turn == 19:
                    raise
                time.sleep(0.5)
                continue
            yield
            return
