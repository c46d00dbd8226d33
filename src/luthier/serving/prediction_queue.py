"""Dynamic batching: prediction requests that wait together are one call of the family's `predict`, in a thread that owns the model.

No answer is computed here: `predict` of a family does that (of classes in `families/class_family.py`), and `postprocess` in
`pilot/stages/opened_bundle.py` makes of it what the client is given.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.types import Record
from luthier.serving.limits import Limits

LINGER_SHARE = 0.25
"""Of the time of the last batch, that the next one waits at most for as many requests again."""
Predict = Callable[[Sequence[Record], int], list[dict[str, Any]]]
"""Rows, and the tokens that an answer may have → what the model says of each."""


class QueueFull(LuthierError):
    """As many requests wait as may wait.

    Args:
        message: what is so.
        seconds: until a place is likely to be free.
    """

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message, f"ask again in {seconds} s")
        self.seconds = seconds


class QueueClosed(LuthierError):
    """No more requests are taken."""


class Abandoned(Exception):
    """Nobody waits any longer for what is being computed."""


class Answerless(Exception):
    """The model answered another number of rows than it was asked about."""


@dataclass
class Job:
    """One request.

    Args:
        records: its rows.
        limit: tokens that an answer may have.
        future: what the model says of them.
    """

    records: Sequence[Record]
    limit: int
    future: Future[list[dict[str, Any]]] = field(default_factory=Future)
    cancelled: bool = False

    def cancel(self) -> None:
        """Nobody waits for it any longer."""
        self.cancelled = True
        self.future.cancel()


class PredictionQueue:
    """A bounded queue before one thread that predicts.

    Args:
        predict: the family's, with the model.
        limits: of the queue and of a batch.
        together: whether rows of several requests may be one call; else each row is a call of its own, between which a request can be abandoned.
    """

    def __init__(self, predict: Predict, limits: Limits, together: bool = True) -> None:
        self._predict, self._limits, self._together = predict, limits, together
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []  # those that were collected together
        self._in_call: list[Job] = []  # of them, those that the present call of `predict` is about: one alone after a fault
        self._last, self._closed, self._seconds_a_job, self._last_seconds = 0, False, 0.05, 0.0
        self._thread = threading.Thread(target=self._work, name="luthier-predict", daemon=True)
        self._thread.start()

    def submit(self, records: Sequence[Record], limit: int) -> Job:
        """Take a request; returns at once.

        Raises:
            QueueFull: too many wait.
            QueueClosed: the queue is closed.
        """
        job = Job(records, limit)
        with self._changed:
            if self._closed:
                raise QueueClosed("this model takes no more requests", "ask again")
            if len(self._waiting) >= self._limits.waiting:
                self._drop_cancelled()
            if len(self._waiting) >= self._limits.waiting:
                raise QueueFull(f"{len(self._waiting)} requests wait already", max(1, math.ceil(len(self._waiting) * self._seconds_a_job)))
            self._waiting.append(job)
            self._changed.notify()
        return job

    def numbers(self) -> dict[str, int]:
        """Requests that wait and that are at work."""
        with self._changed:
            return {
                "waiting": sum(not job.cancelled for job in self._waiting),
                "running": sum(not job.cancelled and not job.future.done() for job in self._running),
            }

    def close(self, grace: float = 0.0) -> None:
        """Take no more, let what waits finish for so many seconds, tell the rest that the server ends, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(grace)
        with self._changed:
            for job in (*self._waiting, *self._running):
                job.cancelled = True
                _settle(job.future, QueueClosed("the server is shutting down", "ask again"))
            self._waiting.clear()
            self._changed.notify()

    def poll(self) -> None:
        """Called inside the model: ends a computation that nobody waits for any longer.

        Raises:
            Abandoned: nobody does.
        """
        if threading.current_thread() is self._thread and self._in_call and all(job.cancelled for job in self._in_call):
            raise Abandoned

    def _work(self) -> None:
        while True:
            jobs = self._collect()
            if jobs is None:
                return
            began = time.monotonic()
            self._answer(jobs)
            with self._changed:
                self._running = []
            self._last_seconds = time.monotonic() - began
            self._seconds_a_job += 0.2 * (self._last_seconds / max(len(jobs), 1) - self._seconds_a_job)

    def _collect(self) -> list[Job] | None:
        """The next requests that are answered together; None where the queue is closed and empty.

        After a batch of several it waits a little for as many again: their clients have just been answered, and the first of them to ask again must not go alone.
        """
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            until = time.monotonic() + min(self._limits.linger_seconds, LINGER_SHARE * self._last_seconds)
            while self._together and len(self._waiting) < self._last and (left := until - time.monotonic()) > 0 and not self._closed:
                self._changed.wait(left)
            self._drop_cancelled()
            jobs: list[Job] = []
            rows = 0
            while self._waiting:
                job = self._waiting[0]
                if jobs and (not self._together or rows + len(job.records) > self._limits.batch_rows or job.limit != jobs[0].limit):
                    break
                self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                    rows += len(job.records)
            self._running, self._last = jobs, len(jobs)
            return jobs

    def _drop_cancelled(self) -> None:
        self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        self._in_call = jobs
        try:
            answers = self._predict_all([record for job in jobs for record in job.records], jobs[0].limit)
            start = 0
            for job in jobs:
                _settle(job.future, answers[start : start + len(job.records)])
                start += len(job.records)
        except Abandoned:
            pass  # nobody waits for an answer
        except Exception as problem:
            if len(jobs) == 1:
                _settle(jobs[0].future, problem)
            else:  # whose fault it is shows when each is asked by itself
                for job in jobs:
                    self._answer([job])
        finally:
            self._in_call = []

    def _predict_all(self, records: list[Record], limit: int) -> list[dict[str, Any]]:
        """One answer a row."""
        if self._together or not records:
            answers = self._predict(records, limit) if records else []
        else:
            answers = []
            for record in records:
                self.poll()
                answers += self._predict([record], limit)
        if len(answers) != len(records):
            raise Answerless(f"{len(records)} rows, {len(answers)} answers")
        return answers


def _settle(future: Future[list[dict[str, Any]]], result: list[dict[str, Any]] | Exception) -> None:
    """Give a future its result, unless its client is gone or the queue was closed meanwhile."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(result) if isinstance(result, Exception) else future.set_result(result)


def poll_inside(model: Any, poll: Callable[[], None]) -> None:
    """Have a function called at each step of a model that writes: whenever tokens are looked up in a table.

    Args:
        model: an `nn.Module`, or an engine in its place.
        poll: called with nothing; it may raise to stop.
    """
    from torch import nn

    from luthier.serving.engine_network import EngineNetwork

    if isinstance(model, EngineNetwork):
        model.poll = poll
        return
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(lambda module, inputs: poll())


__all__ = ["Abandoned", "Job", "PredictionQueue", "QueueClosed", "QueueFull", "poll_inside"]
