"""Trials trained in this process: each is a run in its own folder, paused while others train."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from luthier.core.errors import Stopped
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import Run
from luthier.core.study import Study
from luthier.evaluation.contributions import contributions
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.choice import Choice
from luthier.pilot.stages.begin import begin_run
from luthier.pilot.stages.context import RunContext
from luthier.pilot.trials.remote import RemoteTrial
from luthier.studies.backends import Backend
from luthier.studies.decay_branches import decay_branch
from luthier.studies.space import Values, apply_values
from luthier.studies.successive_halving import Trial
from luthier.training.assemble import open_objective
from luthier.training.deadline import TimeLimit
from luthier.training.devices import available_memory
from luthier.training.train import Fit

IN_MEMORY = 0.25
"""Share of the free memory that trials at rest may hold; others wait on the disk."""


Scored = tuple[float, np.ndarray]
"""A validation score, smaller is better, and the contributions whose mean it is."""


class StepReporter(NullReporter):
    """A reporter that shows the steps alone while trials take turns, and all once one of them has been chosen."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.chosen = reporter, False
        self.step = reporter.step  # type: ignore[method-assign]

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """The validation rows were looked at."""
        if self.chosen:
            self.reporter.evaluation(step, measured, best)


class LocalTrial:
    """A trial as a run in a folder of its own.

    Args:
        pool: builds the trials.
        trial: its number and values.
        end: the name of a branch of it, and the values that the branch has beside the trial's.
    """

    def __init__(self, pool: TrialPool, trial: Trial, end: str = "", values: Values | None = None) -> None:
        self.pool, self.trial, self.name = pool, trial, end
        self.experiment = apply_values(pool.experiment, {**trial.values, **(values or {})})
        self.context = pool.context_of(self.experiment, trial, end, values)
        self.reporter = StepReporter(pool.context.reporter)
        self.fit: Fit | None = None
        self.branches: dict[str, LocalTrial] = {}
        self.limit: TimeLimit | None = None

    def training(self) -> Fit:
        """Its training, in memory."""
        if self.fit is None:
            self.pool.make_room(self)
            self.fit = Fit(self.context.run, self.context.work(self.experiment), self.reporter, self.context.signals, limit=self.limit)
            self.pool.in_memory.append(self)
        return self.fit

    def set_time_limit(self, limit: TimeLimit | None) -> None:
        """From here on it is the last trial, and its training is watched.

        Args:
            limit: of the study; None where it has no time budget.
        """
        if limit is None:
            return
        sizes = [experiment.training.batch_size for experiment in (self.experiment, self.pool.experiment)]
        self.limit = replace(limit, step=limit.step * sizes[0] / sizes[1])
        if self.fit is not None:
            self.fit.set_time_limit(self.limit)

    def advance(self, share: float) -> Scored:
        """Train on to this share of the run, and look at the validation rows."""
        fit = self.training()
        fit.advance(max(1, round(share * fit.work.total)))
        scores = fit.evaluator.latest_scores
        if scores is None or fit.evaluator.evaluated != fit.done:
            scores = score(fit.work.model, fit.work.objective, fit.work.validation, poll=self.context.signals.poll)
        return contributions(scores, self.experiment.training.metric)

    def finish(self) -> Scored:
        """Train to the end.

        Returns:
            How the best weights do, which the model then has.
        """
        fit = self.training()
        fit.finish()
        return contributions(score(fit.work.model, fit.work.objective, fit.work.validation), self.experiment.training.metric)

    def train_branch(self, share: float, shape: str = "linear") -> Scored:
        """Train a branch on whose learning rate falls to zero at this share of the run; the trial itself stays where the branch leaves it."""
        branch = self.branch(share, shape)
        result = branch.finish()
        if branch is not self:
            branch.suspend()
        return result

    def branch(self, share: float, shape: str = "linear") -> LocalTrial:
        """A run that has done what this trial has, and goes on to an end of its own; the trial itself where it has come to an end before."""
        name = f"{shape}-{share:.3f}"
        if name not in self.branches:
            left, values = decay_branch(self.experiment, len(self.context.examples("train")), share, shape)
            run = self.pool.study.trial(self.trial.number, name)
            if not run.events_named("forked"):
                fit = self.training()
                fit.advance(left)
                if fit.over or fit.work.cuts:  # a run that was cut has its one end
                    return self
                fit.save_checkpoint()
            self.branches[name] = LocalTrial(self.pool, self.trial, name, values)
            self.branches[name].limit = self.limit
            if not run.events_named("forked"):
                _fork(self.context.run, run, left)
        return self.branches[name]

    def suspend(self) -> None:
        """Keep on the disk what is needed to go on, and free the memory."""
        if self.fit is not None:
            self.fit.save_checkpoint()
            self._free()

    def _free(self) -> None:
        if self.fit is not None:
            self.fit = None
            self.pool.in_memory.remove(self)

    def drop(self) -> None:
        """It takes no further part: its curves stay, its weights do not."""
        for branch in self.branches.values():
            branch.drop()
        self._free()
        shutil.rmtree(self.context.run.folder / "checkpoints", ignore_errors=True)

    def halt(self) -> None:
        """Nothing to do: it is this thread that works."""


def _fork(trunk: Run, branch: Run, step: int) -> None:
    """Give a branch what its trunk has done; nothing is shared from here on."""
    for name in ("checkpoints", "validation_losses"):
        shutil.rmtree(branch.folder / name, ignore_errors=True)
        if (trunk.folder / name).is_dir():
            shutil.copytree(trunk.folder / name, branch.folder / name)
    for name in ("metrics.jsonl", "timing.jsonl", "samples.jsonl"):
        if (trunk.folder / name).exists():
            shutil.copyfile(trunk.folder / name, branch.folder / name)
    branch.event("forked", of=trunk.folder.name, step=step)


class TrialPool:
    """Builds the trials and decides which of them may stay in memory.

    Args:
        context: of the study.
        experiment: the default.
        backend: who computes the trials; None: this process does.
    """

    def __init__(self, context: RunContext, experiment: Experiment, backend: Backend | None = None) -> None:
        self.context, self.experiment, self.backend = context, experiment, backend
        self.seconds = context.run.events_named("planned")[-1]["forecast"]["seconds"] if context.run.events_named("planned") else 0.0
        self.in_memory: list[LocalTrial] = []
        self.study = Study(context.run.folder)
        self.room = IN_MEMORY * available_memory()

    @contextlib.contextmanager
    def suspend_when_stopped(self) -> Iterator[None]:
        """Where a signal stops the search, what the trials at rest have done goes to the disk."""
        try:
            yield
        except Stopped:
            for runner in [*self.in_memory]:
                runner.suspend()
            raise

    def open_trial(self, trial: Trial) -> LocalTrial | RemoteTrial:
        """A trial's entrant."""
        if self.backend is not None:
            context = self.context_of(apply_values(self.experiment, trial.values), trial)
            return RemoteTrial(self.study.folder, context.run.folder, trial, self.backend, self.seconds)
        return LocalTrial(self, trial)

    def make_room(self, newcomer: LocalTrial) -> None:
        """Send the longest idle to the disk until another fits."""
        present = [runner for runner in self.in_memory if runner is not newcomer]
        largest = max((_memory_of(runner.fit) for runner in present if runner.fit is not None), default=0)
        while present and largest * (len(present) + 1) > self.room:
            present.pop(0).suspend()

    def context_of(self, experiment: Experiment, trial: Trial, end: str = "", values: Values | None = None) -> RunContext:
        """A way for the run of a trial or of an end of it; prepared rows are shared where its objective reads them in the same manner."""
        run = self.study.trial(trial.number, end)
        if not (run.folder / "experiment.yaml").exists():
            run = Run.create(run.folder)
            choices = [Choice(path, value, f"trial {trial.number}: {trial.by}") for path, value in trial.values.items()]
            choices += [Choice(path, value, f"an end of trial {trial.number}") for path, value in (values or {}).items()]
            begin_run(run, experiment, self.context.dataset, choices, NullReporter(), budget=None, force=False)
        same = experiment.objective == self.experiment.objective
        prepared = self.context.prepared if same else {}
        return replace(self.context, run=run, objective=open_objective(experiment, self.context.tokenizer), prepared=prepared)


def _memory_of(fit: Fit) -> int:
    """Bytes that a training holds while it rests: the network, and of what moves two moments and, beside a network in bf16, the precise weights."""
    network = sum(parameter.nbytes for parameter in fit.work.model.parameters())
    return network + 3 * sum(tensor.nbytes for tensor in fit.work.masters.weights().values())
