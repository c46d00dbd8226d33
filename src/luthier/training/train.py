"""A run from its first (or next) step to its best weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.core.errors import RunError, Stopped
from luthier.core.interfaces import Reporter, Watcher
from luthier.core.run import Run
from luthier.core.types import Step
from luthier.training import checkpoints
from luthier.training.deadline import Deadline, TimeLimit, cuts_of
from luthier.training.steps import Work, steps
from luthier.training.watchers import Checkpointer, EarlyStop, Evaluator, MetricsFile, Signals, StopWhereNotFinite


class Fit:
    """A training that can pause: between two steps it holds all it needs in memory, and goes on as if nothing had been.

    Args:
        run: owned; metrics, evaluations and checkpoints go there. It goes on from the newest checkpoint where there is one.
        work: the parts, as assembled.
        reporter: shows progress.
        signals: asked after each step.
        more: watchers that see each step last, with the last evaluation, and may end the training by `step.stop()`.
        limit: the time to keep to; where it does not suffice, the run is cut, and the event `cut_while_training` says so.
    """

    def __init__(
        self, run: Run, work: Work, reporter: Reporter, signals: Signals, more: Sequence[Watcher] = (), limit: TimeLimit | None = None
    ) -> None:
        self.run, self.work, self.reporter, self.signals = run, work, reporter, signals
        work.cut(*cuts_of(run))
        work.shrunk = {event["step"] - 1: event["tokens"] for event in run.events_named("shrunk")}  # what was decided once is obeyed
        work.on_shrink = lambda step, tokens: _report_shrink(run, reporter, step, tokens)
        self.metrics = MetricsFile(run)
        self.writer = checkpoints.Writer(run, work.masters)
        self.evaluator = Evaluator(work, run, self.metrics, self.writer, reporter, signals.poll)
        self.checkpointer = Checkpointer(work, self.writer, self.evaluator)
        self.done = _resume(run, work, self.evaluator)
        self.over = bool(run.events_named("trained"))
        self.watchers: list[Watcher] = [self.metrics, StopWhereNotFinite(work, self.metrics), self.evaluator, reporter.step]
        self.more = more
        self.evaluator.latest = _latest_evaluation(run)
        stopped = run.events_named("stopped_by_watcher")
        self.stop_at = stopped[-1]["step"] if stopped else 0  # where a watcher stopped the run once, it stops again
        self.deadline: Deadline | None = None
        if limit is not None:
            self.set_time_limit(limit)

    def set_time_limit(self, limit: TimeLimit) -> None:
        """Watch the clock from here on; the first limit holds.

        Args:
            limit: the time to keep to.
        """
        if self.deadline is not None:
            return
        evaluator = self.evaluator  # not self: a training that nobody needs is freed at once
        self.deadline = Deadline(self.work, self.run, self.reporter, evaluator.schedule, limit, lambda: evaluator.best["step"])
        # before the evaluator: a run that is cut to the step it has just done is evaluated there
        self.watchers.insert(self.watchers.index(evaluator), self.deadline)

    def advance(self, until: int) -> None:
        """Train until so many steps are done, or nothing gets better.

        Raises:
            Stopped: a signal came; a checkpoint of the last finished step has been written.
            Diverged: the loss is not a number.
            OutOfMemory: one row alone is too much.
            DiskFull, DiskFailed: a checkpoint could not be written; those before it are whole.
        """
        waiting = self.done > 0 and self.evaluator.schedule.due(self.done) and self.evaluator.evaluated != self.done
        if self.over or (self.done >= until and not waiting):
            return
        self.metrics.last = time.monotonic()  # a pause is nobody's step
        try:
            if waiting:
                self.evaluator.evaluate(self.done)  # the stop came between the step and its evaluation
            if self.done and self.done == self.stop_at:
                self._stop()
            if self.deadline is not None:
                self.deadline.begin()
            for step in steps(self.work, self.done) if self.done < until else ():
                self.done = step.number
                for watch in self.watchers:
                    watch(step)
                self._show(step)  # before the checkpoint: what a person's watchers ask for stands in it
                self.checkpointer(step)
                if self.deadline is not None:
                    self.deadline.after(step)
                self.signals.poll()
                if step.number == until:
                    break
        except EarlyStop:
            self.over = True
        except Stopped as stop:
            if stop.at_once:
                self.writer.abandon()
            else:
                self.checkpointer.save(self.done)
            raise
        finally:
            self.metrics.flush()
            self.writer.wait()
        self.over = self.over or self.done >= self.work.total

    def _show(self, step: Step) -> None:
        """Show a step to the watchers of the person, and end the training where one of them asks for it or did so before an interruption.

        Raises:
            EarlyStop: the training is to end here.
        """
        stopping = False
        if self.more:
            latest = self.evaluator.latest
            view = replace(step, evaluation=dict(latest) if latest else None)
            try:
                for watch in self.more:
                    watch(view)
            except Exception as problem:
                self.checkpointer.save(self.done)
                problem.add_note(f"raised by a watcher after step {self.done}; the run goes on with `luthier resume {self.run.folder}`")
                raise
            stopping = view.stopping
        if stopping or self.done == self.stop_at:
            self._stop()

    def _stop(self) -> None:
        """End the training here, as if the run had been planned to end here.

        Raises:
            EarlyStop: always, but after the last step, where there is nothing to stop.
        """
        if self.done >= self.work.total:
            return
        if not self.stop_at:
            self.run.event("stopped_by_watcher", step=self.done, total=self.work.total)
            self.stop_at = self.done
        if self.evaluator.evaluated != self.done or not self.evaluator.best["step"]:
            self.evaluator.evaluate(self.done, last=True)
        raise EarlyStop

    def save_checkpoint(self) -> None:
        """Write a full checkpoint of this step, so that another process can go on from it."""
        if self.done and not self.over:
            self.checkpointer.save(self.done)
            self.writer.wait()

    def finish(self) -> dict[str, Any]:
        """Train to the end and leave the model at its best.

        Returns:
            The best evaluation: its step and metrics.

        Raises:
            Stopped: a signal came; a checkpoint of the last finished step has been written.
            Diverged: the loss is not a number.
            OutOfMemory: one row alone is too much.
        """
        earlier = self.run.events_named("trained")
        if earlier:
            return _restore_best(self.run, self.work, earlier[-1]["best"])
        self.advance(self.work.total)
        self.run.event("trained", step=self.done, best=self.evaluator.best)
        return _restore_best(self.run, self.work, self.evaluator.best)


def _report_shrink(run: Run, reporter: Reporter, step: int, tokens: int) -> None:
    run.event("shrunk", step=step + 1, tokens=tokens)
    reporter.say(
        f"step {step + 1}: not enough memory, so from here on {tokens:,} tokens at once; the rows of a step and what they teach stay the same"
    )


def _latest_evaluation(run: Run) -> dict[str, Any] | None:
    """The last evaluation that the run's folder tells of."""
    lines = [line for line in run.lines("metrics.jsonl") if "evaluation" in line]
    return {"step": lines[-1]["step"], **lines[-1]["evaluation"]} if lines else None


def _resume(run: Run, work: Work, evaluator: Evaluator) -> int:
    """Go to the newest whole checkpoint and take back what was written after it."""
    checkpoint = checkpoints.newest(run)
    start = 0
    if checkpoint is not None:
        checkpoint.restore(work.masters)
        evaluator.restore(checkpoint.state)
        start = checkpoint.state["step"]
    if not run.events_named("trained"):
        if checkpoint is not None:
            run.event("resumed", step=start)
        for name in ("metrics.jsonl", "timing.jsonl", "samples.jsonl"):
            run.truncate(name, start)
        for file in (run.folder / "validation_losses").glob("*"):  # also what a death left half written, under another name
            if not file.name.startswith("step-") or int(file.stem[5:]) > start:
                file.unlink()
    return start


def _restore_best(run: Run, work: Work, best: dict[str, Any]) -> dict[str, Any]:
    """Put the best weights into the model.

    Raises:
        RunError: they are no longer there.
    """
    folder = run.folder / "checkpoints" / checkpoints.folder_name(best["step"])
    if not folder.is_dir():
        raise RunError(f"the best checkpoint, {folder}, is gone", "start again in another folder")
    checkpoints.verify(folder).restore(work.masters)
    return best
