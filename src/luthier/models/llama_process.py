"""A llama-server of our own: on this machine alone, behind a key that nobody else has, and ended with us."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

SERVER = "llama-server"
PLACE = "LUTHIER_LLAMA_SERVER"
"""The environment variable that names the program where it is not on the PATH."""
PATIENCE = 300
"""Seconds that it may take to read its file."""
END_SECONDS = 10
"""That it has to end by itself."""
NO_CHAT_PARSER: dict[str, Any] = {"chat_parser": json.dumps({"parsers": [{"type": "epsilon"}], "rules": {}, "root": 0})}
"""Of a request: that the answer is not searched for parts of a conversation. Versions of 2026 read all of it again at each token otherwise, some end with an error at bytes that are no
character, and what they find is told by other routes alone. Source: llama.cpp, common/peg-parser.cpp (`from_json`); older versions do not know the field, and pass over it."""
ENDS_WITH_US = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Before the program: it asks Linux to kill what it becomes once the thread that began it is gone, also by SIGKILL. Source: prctl(2), PR_SET_PDEATHSIG."""


def find_server() -> str | None:
    """The path of llama-server: as the environment names it, else on the PATH; None where there is none.

    Raises:
        ModelError: the environment names what is no program.
    """
    named = os.environ.get(PLACE)
    if not named:
        return shutil.which(SERVER)
    found = shutil.which(named)
    if found is None:
        raise ModelError(f"{PLACE} is {named}, which is no program", f"let it name {SERVER}, or leave it out and have that on the PATH")
    return found


@cache
def options_of(program: str, *options: str) -> tuple[str, ...]:
    """Those of some options that this version of the program has.

    Args:
        program: its path.
        options: that begin with a dash.
    """
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return tuple(option for option in options if option in done.stdout + done.stderr)


def version_of(program: str) -> str:
    """What the program says of its version, in one line.

    Args:
        program: its path.

    Raises:
        ModelError: it cannot be run.
    """
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as problem:
        raise ModelError(f"{program} cannot be run: {problem}", "install llama.cpp again") from None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    return next((line for line in lines if line.startswith("version")), "of unknown version")


def error_line(lines: Sequence[str]) -> str:
    """The line of a program's log that tells a person why it failed: the first about an error, else the last."""
    written = [line.strip() for line in lines if line.strip()]
    wrong = [line for line in written if "error" in line.lower()]
    return (wrong[:1] or written[-1:] or ["it said nothing"])[0][:300]


class LlamaProcess:
    """A llama-server, started.

    A thread starts it and waits for its end, so that it lives as long as the program: Linux ends a child with the thread that began it.

    Args:
        program: its path.
        file: the .gguf.
        options: of its command line, beside those that make it reachable by us alone.
        on_end: told in that thread why it has ended, unless we closed it.

    Raises:
        ModelError: it cannot be started.
    """

    def __init__(self, program: str, file: Path, options: Sequence[str], on_end: Callable[[str], None] = lambda why: None) -> None:
        self.file, self.port, self.key = file, _free_port(), secrets.token_urlsafe(24)
        self._lines: deque[str] = deque(maxlen=60)
        self._on_end, self._closing, self._ended, self._started = on_end, False, threading.Event(), threading.Event()
        self._problem: OSError | None = None
        self._process: subprocess.Popen[str] | None = None
        own = ["--host", "127.0.0.1", "--port", str(self.port), *options_of(program, "--no-webui", "--no-slots", "--offline")]
        command = [program, "-m", str(file), *own, *options]
        threading.Thread(target=self._keep, args=(command,), name="luthier-llama", daemon=True).start()
        self._started.wait()
        if self._process is None:
            raise ModelError(f"{program} cannot be started: {self._problem}", "install llama.cpp again")
        self._finalizer = weakref.finalize(self, _end, self._process)  # also where this program ends without `close`

    @property
    def pid(self) -> int:
        """Of the program."""
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._ended.is_set()

    def wait_for_end(self, seconds: float) -> bool:
        """Whether it is gone within so many seconds."""
        return self._ended.wait(seconds)

    def why_ended(self) -> str:
        """How it ended, with its last words; whom somebody else ended had no time for any, and what it wrote before would be no reason."""
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"{SERVER} (process {self.pid}) ended by signal {-code}"
        return f"{SERVER} (process {self.pid}) ended with exit code {code}: {error_line(list(self._lines))}"

    def wait_until_ready(self) -> None:
        """Until it has read its file.

        Raises:
            ModelError: it cannot, with its own words, or it takes too long.
        """
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.ended:
                raise ModelError(
                    f"llama.cpp cannot open {self.file}: {error_line(list(self._lines))}", "export it again; or update llama.cpp"
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        raise ModelError(f"llama.cpp has not read {self.file} in {PATIENCE} seconds", "see whether there is memory enough")

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._finalizer()
        self._ended.wait(END_SECONDS)

    def _keep(self, command: Sequence[str]) -> None:
        """Start it, read its log, and wait for its end."""
        environment = {**os.environ, "LLAMA_API_KEY": self.key}  # the words of a command can be read by others
        begun = [sys.executable, "-I", "-S", "-c", ENDS_WITH_US, str(os.getpid())] if sys.platform == "linux" and sys.executable else []
        try:
            self._process = subprocess.Popen(
                [*begun, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
            )  # fmt: skip
        except OSError as problem:
            self._problem = problem
            self._started.set()
            return
        self._started.set()
        assert self._process.stdout is not None
        with self._process.stdout:
            self._lines.extend(self._process.stdout)
        self._process.wait()
        self._ended.set()
        if not self._closing:
            self._on_end(self.why_ended())


def _end(process: subprocess.Popen[str]) -> None:
    """End a server, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
