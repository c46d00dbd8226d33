"""A process that has everything imported and has computed nothing: each run is a fork of it, so starting one costs nothing.

It reads one job a line (JSON) and says, also in lines, what the run in its child reaches, and how the child ended.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.interfaces import NullReporter


def say(**words: Any) -> None:
    """One line, at once, whoever is killed next."""
    os.write(1, (json.dumps(words) + "\n").encode())


class Teller(NullReporter):
    """A reporter that says how far the run is."""

    def stage(self, name: str, detail: str = "") -> None:
        self.name = name
        say(at=name)

    def step(self, step: Any) -> None:
        say(at="step", stage=self.name, number=step.number)

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        say(at="evaluation", number=step)


def arm(fault: int) -> None:
    """Die before the n-th call to the file system that the writer of checkpoints makes."""
    import shutil

    from luthier.training import checkpoints

    state, here = {"calls": 0}, threading.local()  # checkpoints are written in a thread of their own

    def guard(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if getattr(here, "inside", False):
                state["calls"] += 1
                say(call=name, number=state["calls"])
                if state["calls"] == fault:
                    os.kill(os.getpid(), signal.SIGKILL)
            return own(*given, **more)

        return call

    def inside(own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            here.inside = True
            try:
                return own(*given, **more)
            finally:
                here.inside = False

        return call

    os.fsync = guard("fsync", os.fsync)  # type: ignore[assignment]
    shutil.rmtree = guard("rmtree", shutil.rmtree)  # type: ignore[assignment]
    checkpoints.save_file = guard("save_file", checkpoints.save_file)
    for name in ("rename", "mkdir", "write_text"):
        setattr(Path, name, guard(name, getattr(Path, name)))
    checkpoints.save, checkpoints.tidy = inside(checkpoints.save), inside(checkpoints.tidy)


def every(steps: int) -> None:
    """A checkpoint every few steps, whatever it costs: these runs are too short for the clock to ask for one."""
    from luthier.training.watchers import Checkpointer

    def call(self: Checkpointer, step: Any) -> None:
        if step.number % steps == 0 and step.number < step.total:
            self.save(step.number)

    Checkpointer.__call__ = call  # type: ignore[method-assign]


def tear(file: str, line: int) -> None:
    """Die in the middle of appending to a file."""
    from luthier.core.run import Run

    own, calls = Run.append, [0]

    def append(self: Run, name: str, *entries: dict[str, Any]) -> None:
        if name == file and entries:
            calls[0] += 1
            if calls[0] == line:
                with (self.folder / name).open("ab") as handle:
                    handle.write(json.dumps(entries[0]).encode()[: len(json.dumps(entries[0])) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        own(self, name, *entries)

    Run.append = append  # type: ignore[method-assign]


def watch(self: Teller, step: Any) -> None:
    """Say what the process holds, from time to time, once no checkpoint is being written: its files are open for good reason."""
    if self.name == "train" and step.number % 500 == 0:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        say(
            at="step",
            stage=self.name,
            number=step.number,
            memory=pages * resource.getpagesize(),
            files=len([*Path("/proc/self/fd").iterdir()]),
        )


def work(job: dict[str, Any]) -> int:
    """What the child does; its exit code."""
    import luthier
    from luthier.core.errors import LuthierError, Stopped

    every(job.get("every", 3))
    if job.get("watched"):
        Teller.step = watch  # type: ignore[method-assign]
    if job.get("fault") is not None:
        arm(job["fault"])
    if job.get("torn"):
        tear(*job["torn"])
    if job.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"],) * 2)
    try:
        if job["do"] == "train":
            luthier.train(job["experiment"], out=job["folder"], set=job.get("set", ()), force=True, reporter=Teller())
        else:
            luthier.resume(job["folder"], reporter=Teller())
    except Stopped as stopped:
        return 128 + stopped.signal
    except LuthierError as problem:
        say(problem=str(problem))
        return problem.exit_code
    return 0


def main() -> None:
    """Import, then fork for each job."""
    import sklearn.linear_model  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama  # noqa: F401

    import luthier.delivery.report
    import luthier.pilot.complete  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                code = work(job)
            finally:
                os._exit(code)
        say(child=child)
        _, status = os.waitpid(child, 0)
        say(ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
