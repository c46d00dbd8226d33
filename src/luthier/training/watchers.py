"""Watchers, called after each step: metrics file, divergence, evaluation with early stopping, checkpoints; and signals. One that raises ends the run."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from luthier.core.errors import Diverged, Stopped
from luthier.core.interfaces import Reporter
from luthier.core.run import Run, name_disk_errors
from luthier.core.types import Scores, Step
from luthier.data.batches import steps_in_epoch
from luthier.evaluation.by_class import find_never_predicted
from luthier.evaluation.metrics import measure, metric_of
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.optim.schedules import Cut, share_done
from luthier.training.checkpoints import Writer, folder_name
from luthier.training.steps import Work

SAMPLES = 8


class EarlyStop(Exception):
    """Enough evaluations have passed without a better one."""


class MetricsFile:
    """Writes one line a step, a few lines at a time; the wall clock goes to a file of its own."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.waiting: list[dict[str, Any]] = []
        self.times: list[dict[str, Any]] = []
        self.last = self.flushed = time.monotonic()

    def __call__(self, step: Step) -> None:
        """Note the step."""
        now = time.monotonic()
        self.waiting.append({"step": step.number, "loss": step.loss, "count": step.count, "tokens": step.tokens, "examples": step.examples,
                             "lr": step.lr, "gradient_norm": step.gradient_norm, "epoch": round(step.epoch, 4)})  # fmt: skip
        self.times.append({"step": step.number, "seconds": round(now - self.last, 5)})
        self.last = now
        if now - self.flushed > 1.0:
            self.flush()

    def note(self, **entry: Any) -> None:
        """Add a line of another kind (an evaluation)."""
        self.waiting.append(entry)

    def flush(self) -> None:
        """Write what is waiting."""
        self.run.append("metrics.jsonl", *self.waiting)
        self.run.append("timing.jsonl", *self.times)
        self.waiting, self.times = [], []
        self.flushed = self.last = time.monotonic()


class StopWhereNotFinite:
    """Stops a run whose loss is no longer a number, and names the rows of that step."""

    def __init__(self, work: Work, metrics: MetricsFile) -> None:
        self.work = work
        self.metrics = metrics

    def __call__(self, step: Step) -> None:
        """Look at the step.

        Raises:
            Diverged: the loss or the gradient is not finite.
        """
        if math.isfinite(step.loss) and math.isfinite(step.gradient_norm) and step.count:
            return
        self.metrics.flush()
        rows = [example.record.row for example in self.work.examples_of_step(step.number - 1)]
        if not step.count:  # every target of these rows is masked: nothing moved, and that is said
            self.metrics.run.event("nothing_learned", step=step.number, rows=rows)
            return
        self.metrics.run.event("diverged", step=step.number, loss=step.loss, gradient_norm=step.gradient_norm, rows=rows)
        raise Diverged(
            f"step {step.number}: the loss is {step.loss}, the gradient's norm {step.gradient_norm}; rows {rows[:8]}",
            f"start again with a lower learning rate: --set optimizer.lr={step.lr / 10 or self.work.masters.spec.lr / 10:.0e}",
        )


class EvaluationSchedule:
    """When the validation rows are evaluated, and which evaluations count.

    Before the decay of a WSD schedule every other evaluation is left out, and none counts for the best checkpoint or early stopping: the decay is what makes
    the weights good. Where the run was cut for lack of time, the evaluations before its end may be left out.

    Args:
        work: its experiment says how often.
    """

    def __init__(self, work: Work) -> None:
        training = work.experiment.training
        schedule: Any = work.experiment.schedule
        self.work, self.planned, self.stable_until = work, work.planned or work.uncut, float(schedule.stable_until)
        per_epoch = steps_in_epoch(len(work.train), training.batch_size)
        self.every = max(1, min(work.uncut, round(per_epoch / training.evaluations_per_epoch)))

    def due(self, number: int) -> bool:
        """Whether there is an evaluation after this step."""
        cut = self._cut(number)
        if cut is not None and not cut.evaluations:
            return number == self.work.total and cut.total > cut.step  # a run that is stopped at once keeps its best checkpoint so far
        return number == self.work.total or number % (self.every if self.counts(number) else 2 * self.every) == 0

    def counts(self, number: int) -> bool:
        """Whether an evaluation after this step counts for the best checkpoint and for early stopping."""
        if number == self.work.total or share_done(number - 1, self.planned) > self.stable_until:
            return True
        return any(cut.step < number and cut.total < self.work.uncut for cut in self.work.cuts)  # the learning rate falls

    def _cut(self, step: int) -> Cut | None:
        """The cut that holds after this step."""
        past = [cut for cut in self.work.cuts if cut.step <= step]
        return past[-1] if past else None

    def __len__(self) -> int:
        return sum(self.due(step) for step in range(1, self.work.total + 1))


class Evaluator:
    """Evaluates the validation rows from time to time, remembers the best step (of equals the later), and stops early when nothing gets better.

    Args:
        work: model, objective and rows.
        run: where it writes.
        metrics: the steps' file; evaluations go in between.
        writer: keeps the best weights.
        reporter: shows progress.
        poll: may raise to stop in the middle of an evaluation.
    """

    def __init__(self, work: Work, run: Run, metrics: MetricsFile, writer: Writer, reporter: Reporter, poll: Callable[[], None]) -> None:
        self.work, self.run, self.metrics, self.writer, self.reporter, self.poll = work, run, metrics, writer, reporter, poll
        self.best: dict[str, Any] = {"step": 0}
        self.evaluations_without_improvement = 0
        self.lowest: float | None = None  # loss of the evaluations that are as good as the best
        self.evaluated = 0
        self.latest_scores: Scores | None = None
        self.latest: dict[str, Any] | None = None
        self.schedule = EvaluationSchedule(work)

    def __call__(self, step: Step) -> None:
        """Evaluate when it is time.

        Raises:
            EarlyStop: `training.patience` evaluations brought nothing better.
        """
        if self.schedule.due(step.number):
            self.evaluate(step.number)

    def evaluate(self, number: int, last: bool = False) -> None:
        """Score the validation rows and act on it.

        Args:
            number: of the step that has just been done.
            last: the training ends here, so this evaluation may be the best wherever the schedule stands.

        Raises:
            EarlyStop: `training.patience` evaluations brought nothing better.
        """
        names = self.work.objective.metrics
        scores = score(self.work.model, self.work.objective, self.work.validation, poll=self.poll)
        measured = measure(scores, names)
        self.evaluated = number
        self.latest_scores = scores
        self.latest = {"step": number, **measured}
        gain = self._gain(measured, names[0]) if last or self.schedule.counts(number) else None
        if gain is not None:
            gets_on = gain > 0 or (gain == 0 and self.lowest is not None and measured["loss"] < self.lowest)
            self.evaluations_without_improvement = 0 if gets_on else self.evaluations_without_improvement + 1
            self.lowest = measured["loss"] if gets_on else self.lowest
        better = gain is not None and gain >= 0  # of equals the later: its learning rate has fallen further
        if better:
            self.best = {"step": number, **measured}
            self.writer.save(self.state(number), full=False, keep={number})
        self.metrics.note(step=number, evaluation=measured, best=better, **_list_never_predicted(scores))
        self.metrics.flush()
        with name_disk_errors(str(self.run.folder)):
            (self.run.folder / "validation_losses").mkdir(exist_ok=True)
        save_file(
            {"loss": scores.loss, "count": scores.count},
            self.run.folder / "validation_losses" / f"{folder_name(number)}.safetensors",
        )
        if scores.probabilities is not None:
            self.run.append("samples.jsonl", *[
                {"step": number, "row": example.record.row, "probabilities": np.round(scores.probabilities[position], 5).tolist()}
                for position, example in enumerate(self.work.validation[:SAMPLES])
            ])  # fmt: skip
        samples = family_of(self.work.experiment.objective.kind).samples(self.work.model, self.work.objective, self.work.validation)  # type: ignore[attr-defined]
        if samples:
            self.run.append("samples.jsonl", *[{"step": number, **line} for line in samples])
        self.reporter.evaluation(number, measured, better)
        self.stop_early(number)
        self.metrics.last = time.monotonic()

    def stop_early(self, number: int) -> None:
        """End the training where `training.patience` evaluations brought nothing better.

        Args:
            number: of the step that was evaluated.

        Raises:
            EarlyStop: it ends here.
        """
        if self.evaluations_without_improvement >= self.work.experiment.training.patience:
            self.run.event("early_stop", step=number, best=self.best["step"])
            raise EarlyStop

    def _gain(self, measured: dict[str, float], name: str) -> float:
        """By how much an evaluation is better than the best before it; below 0 where it is worse."""
        if name not in self.best:
            return math.inf
        return (1 if metric_of(name).higher else -1) * (measured[name] - self.best[name])

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps about the run."""
        return {
            "step": step,
            "best": self.best,
            "worse": self.evaluations_without_improvement,
            "lowest": self.lowest,
            "evaluated": self.evaluated,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint's state."""
        self.best, self.evaluations_without_improvement, self.evaluated = state["best"], state["worse"], state["evaluated"]
        self.lowest = state.get("lowest")


def _list_never_predicted(scores: Scores) -> dict[str, list[int]]:
    """The classes that have rows and that no row was given, by number; nothing where there are none."""
    missing = find_never_predicted(scores)
    return {"never_predicted": missing} if missing else {}


class Checkpointer:
    """Keeps what is needed to resume, at most every `checkpoint_seconds` and 20 times what a checkpoint costs."""

    def __init__(self, work: Work, writer: Writer, evaluator: Evaluator) -> None:
        self.work, self.writer, self.evaluator = work, writer, evaluator
        self.last = time.monotonic()

    def __call__(self, step: Step) -> None:
        """Save when it is time."""
        every = self.work.experiment.training.checkpoint_seconds
        if time.monotonic() - self.last >= max(every, 20 * self.writer.cost) and step.number < step.total:
            self.save(step.number)

    def save(self, step: int) -> None:
        """Save as it is now."""
        self.evaluator.metrics.flush()
        self.writer.save(self.evaluator.state(step), full=True, keep={self.evaluator.best["step"]})
        self.last = time.monotonic()


SAME_STOP_SECONDS = 2.0
"""Seconds after a stop in which one more signal still means that stop: people press Ctrl-C twice."""


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into a stop at the next safe place.

    A second signal changes nothing, so that the checkpoint that is being written is not lost; a third one stops at once.

    Args:
        say: told at once that the first one was heard: the next safe place may be seconds away.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.say = say
        self.caught = 0
        self.times = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                self._before[number] = signal.signal(number, self._catch)
            except ValueError:  # not the main thread: whoever called keeps the signals
                return self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, _Late(handler) if self.caught and callable(handler) else handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.times += 1
        if self.times > 2:
            raise Stopped(number, at_once=True)
        if not self.caught:
            self.caught = number
            with contextlib.suppress(RuntimeError, OSError):  # it came amidst another line, or the terminal is gone
                self.say("stopping at the next safe place, in seconds; twice more stops at once")

    def poll(self) -> None:
        """Stop if asked to.

        Raises:
            Stopped: a signal has come.
        """
        if self.caught:
            raise Stopped(self.caught)


class _Late:
    """Passes signals on to the handler that stood there before, except those that come right after a stop.

    Args:
        before: the handler.
    """

    def __init__(self, before: Any) -> None:
        self.before = before.before if isinstance(before, _Late) else before
        self.since = time.monotonic()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if time.monotonic() - self.since > SAME_STOP_SECONDS:
            self.before(number, frame)
