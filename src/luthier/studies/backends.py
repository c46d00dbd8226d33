"""Backends that compute trials elsewhere: worker processes, or a Ray cluster.

A question and its answer are JSON; what a trial needs and makes lies in its folder. So a worker that dies costs the time since the trial's last
checkpoint: another one is asked the same question and goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from luthier.core.errors import ExperimentError, RunError, nearest
from luthier.core.extras import require_extra

Words = dict[str, Any]
AGAIN = 2
"""Workers that may die over one question before its trial is given up."""


class Lost(RunError):
    """A worker died over a question, or did not answer in time."""


class Hung(Lost):
    """A worker gave no sign: asking again would cost as long again."""


class Backend(Protocol):
    """Answers questions, several at a time; may be called from several threads."""

    def ask(self, question: Words, limit: float) -> Words:
        """Have it computed.

        Args:
            question: JSON.
            limit: seconds after which no answer is waited for.

        Raises:
            Lost: there is none, and why.
        """
        ...

    def close(self) -> None:
        """End the workers, whatever they are at."""
        ...


class Worker:
    """A process that answers one question after the other.

    Args:
        target: "module:function", from JSON to JSON.
        threads: it may use.
        log: where what it prints goes.
    """

    def __init__(self, target: str, threads: int, log: Path) -> None:
        self.target, self.threads, self.log = target, threads, log
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, question: Words, limit: float) -> Words:
        """Its answer; a process is started where none is at work."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "luthier.studies.worker", self.target],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )  # fmt: skip
        process = self.process
        assert process.stdin is not None
        try:
            process.stdin.write((json.dumps(question) + "\n").encode())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # said below
        line = self._line(process, time.monotonic() + limit)
        if line is None:
            self.close()
            raise Hung(f"it gave no sign for {limit:.0f} s and was ended")
        try:
            return json.loads(line)
        except ValueError:
            self.close()
            raise Lost(_how(process.returncode) if not line else f"its answer cannot be read: {line[:80]!r}") from None

    def _line(self, process: subprocess.Popen[bytes], until: float) -> bytes | None:
        """The next line; shorter where the process ended, None where the time is over."""
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                process.wait()
                return line
            line += piece
        return line

    def close(self) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # of a question that nobody will read
                if stream is not None:
                    stream.close()


def _how(code: int | None) -> str:
    """How a process ended, for a person."""
    if code is not None and code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"its process ended with code {code} and no answer"


class Processes:
    """Workers on this machine.

    Args:
        target: "module:function", from JSON to JSON.
        workers: so many at a time.
        threads: each may use.
        folder: for what they print.
    """

    def __init__(self, target: str, workers: int, threads: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.workers = [Worker(target, threads, folder / f"worker-{index}.log") for index in range(workers)]
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.closed = False
        for worker in self.workers:
            self.idle.put(worker)

    def ask(self, question: Words, limit: float) -> Words:
        """Have it computed by whoever is idle; where a process dies, once more by a new one."""
        worker = self.idle.get()
        try:
            for turn in range(1, AGAIN + 1):
                try:
                    return worker.ask(question, limit)
                except Hung:
                    raise
                except Lost:
                    if turn == AGAIN or self.closed:
                        raise
        finally:
            self.idle.put(worker)
        raise AssertionError

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        for worker in self.workers:
            worker.close()


class Ray:
    """Workers on the machines of a Ray cluster: the one that RAY_ADDRESS names, or one that is started here.

    The study's folder and the rows must lie where all machines see them under the same path.

    Args:
        target: "module:function", from JSON to JSON.
        workers: so many at a time.
        threads: each may use.
        folder: not used: Ray keeps what they print.
    """

    def __init__(self, target: str, workers: int, threads: int, folder: Path) -> None:
        self.ray: Any = import_module("ray")
        ray = self.ray
        self.started = not ray.is_initialized()
        if self.started:
            own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers * threads}
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False, **own)
        self.remote = ray.remote(compute_answer).options(num_cpus=threads, max_retries=AGAIN - 1)
        self.target = target

    def ask(self, question: Words, limit: float) -> Words:
        """Have it computed on a machine that is free; where that dies, on another."""
        ray = self.ray
        task = self.remote.remote(self.target, question)
        ready, _ = ray.wait([task], timeout=limit)
        if not ready:
            ray.cancel(task, force=True)
            raise Hung(f"it gave no sign for {limit:.0f} s and was ended")
        try:
            return ray.get(task)
        except ray.exceptions.RayError as problem:
            raise Lost(f"its worker was lost: {type(problem).__name__}") from None

    def close(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        if self.started:
            self.ray.shutdown()


def compute_answer(target: str, question: Words) -> Words:
    """The answer to a question, computed in this process; where that fails, `problem` says how."""
    module, _, function = target.partition(":")
    try:
        return getattr(import_module(module), function)(question)
    except Exception as problem:
        return {"problem": f"{type(problem).__name__}: {problem}"}


BACKENDS = {"processes": Processes, "ray": Ray}


def backend_of(name: str) -> type[Processes] | type[Ray]:
    """The backend of this name.

    Raises:
        ExperimentError: there is none (the message gives the nearest), or its package is not installed.
    """
    if name not in BACKENDS:
        raise ExperimentError(f"there is no backend {name!r}", nearest(name, BACKENDS))
    if name == "ray":
        require_extra("ray", "the backend ray", ExperimentError, "let this machine compute the trials (--backend processes)")
    return BACKENDS[name]
