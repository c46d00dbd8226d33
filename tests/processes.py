"""Programs in processes of their own that cost a hundredth of their start: each is forked from one process that has imported everything and computed nothing.

`python -c` and `python -m luthier` take seconds to import torch and transformers, more than what most tests ask of them. Tests of what an import brings, or of the start itself, begin a
real process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

AT_START = ("OMP_", "GOMP_", "MKL_", "PYTHON", "LC_", "LANG", "HF_")
"""Variables that count when a program or a library of its starts: where they differ, a real process is begun."""
FORKS = sys.platform == "linux"


class Warm:
    """The process that others are forked from, as the tests see it."""

    def __init__(self) -> None:
        self.start = {name: value for name, value in os.environ.items() if name.startswith(AT_START)}
        self.control, theirs = socket.socketpair()
        asked = [sys.executable, "-m", "tests.processes", str(theirs.fileno())]
        self.process = subprocess.Popen(asked, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[1])
        theirs.close()

    def begin(self, job: dict[str, Any], handles: list[int]) -> int:
        """Fork; the process id."""
        said = json.dumps(job).encode()
        socket.send_fds(self.control, [struct.pack("I", len(said))], handles)
        self.control.sendall(said)
        return struct.unpack("I", _receive(self.control, 4))[0]

    def close(self) -> None:
        """End it."""
        self.control.close()
        self.process.wait()


_warm: list[Warm] = []


def warm() -> Warm:
    """The process of these tests; it is begun when it is first needed."""
    if not _warm:
        _warm.append(Warm())
    return _warm[0]


def close() -> None:
    """End the process that others were forked from, when all tests are done."""
    while _warm:
        _warm.pop().close()


class Forked(subprocess.Popen[str]):
    """A `Popen` whose program begins as a fork: `words` are those behind `python`, with `-c` and code or `-m` and a module first."""

    def _execute_child(
        self, args: Any, executable: Any, before: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *more: Any
    ) -> None:
        ours_in, ours_out, ours_error = more[3], more[6], more[8]
        job = {"words": args, "cwd": str(cwd or Path.cwd()), "environment": dict(os.environ if env is None else env)}
        self._ended, told = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        handles = [handle if handle >= 0 else nothing for handle in (ours_in, ours_out, ours_error)]
        self.pid = warm().begin(job, [*handles, told])
        self._child_created = True
        for handle in {nothing, told, *(handle for handle in (ours_in, ours_out, ours_error) if handle >= 0)}:
            os.close(handle)

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self._take()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._take()
        return self.returncode

    def _take(self) -> None:
        self.returncode = int(os.read(self._ended, 16))
        os.close(self._ended)


def begin(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None, **more: Any) -> subprocess.Popen[str]:
    """A program, begun.

    Args:
        words: what would be typed behind `python`: `-c` and code, or `-m` and a module, then its own words
        env: its environment, where it is another one
        cwd: its working folder, where it is another one
        more: for `subprocess.Popen`: the pipes
    """
    at_start = {name: value for name, value in (os.environ if env is None else env).items() if name.startswith(AT_START)}
    told = [str(word) for word in words]
    if FORKS and at_start == warm().start:
        return Forked(told, env=env, cwd=cwd, text=True, **more)
    return subprocess.Popen([sys.executable, *told], env=env, cwd=cwd, text=True, **more)


def run(*words: object, check: bool = False, input: str | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """A program, run to its end, and what it said.

    Args:
        words: what would be typed behind `python`
        check: whether another exit code than 0 is an error, which shows what was said
        input: what its standard input holds
        more: its environment, its working folder, other pipes
    """
    given = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with begin(*words, **given | more) as process:
        try:
            out, error = process.communicate(input)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise AssertionError(f"{' '.join(map(str, words[-3:]))} ended with {process.returncode}:\n{out}\n{error}")
    return subprocess.CompletedProcess(list(words), process.returncode, out, error)


def _receive(where: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = where.recv(size - len(parts))
        if not part:
            raise EOFError("the other end is closed")
        parts += part
    return parts


def _serve(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each job that is asked for and tell how each ended; return in the fork, with its job and its three pipes."""
    running: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the tests close the socket
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        for child in [*running]:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                told = running.pop(child)
                with contextlib.suppress(BrokenPipeError):
                    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(told)
        if control in ready:
            size, handles, _, _ = socket.recv_fds(control, 4, 4)
            if not size:
                os._exit(0)
            job = json.loads(_receive(control, struct.unpack("I", size)[0]))
            child = os.fork()
            if child == 0:
                for handle in (woken, wake, *running.values(), handles.pop()):
                    os.close(handle)
                control.close()
                return job, handles
            running[child] = handles[3]
            for handle in handles[:3]:
                os.close(handle)
            control.sendall(struct.pack("I", child))


def _become(job: dict[str, Any], handles: list[int]) -> None:
    """Make of a fork what a process is that has just begun: its pipes, signals, environment, folder, words and chance."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    for handle in {*handles} - {0, 1, 2}:
        os.close(handle)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(job["environment"])
    time.tzset()
    os.chdir(job["cwd"])
    sys.path[0] = "" if job["words"][0] == "-c" else job["cwd"]
    random.seed()


def _work(words: list[str]) -> int:
    """Do what `python` does with these words; the exit code."""
    try:
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _import_all() -> None:
    """What commands import, none of which computes anything yet."""

    import luthier.app.server.listen
    import luthier.delivery.report
    import luthier.pilot.complete
    import luthier.pilot.predict
    import luthier.pilot.run  # noqa: F401


if __name__ == "__main__":
    gc.disable()
    _import_all()
    gc.collect()
    gc.freeze()
    gc.enable()
    _become(*(begun := _serve(socket.socket(fileno=int(sys.argv[1])))))
    code = 1
    try:
        code = _work(begun[0]["words"])
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    finally:
        os._exit(code)
