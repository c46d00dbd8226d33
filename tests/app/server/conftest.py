"""Servers on real ports, over tiny bundles of two steps of training."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.app.server.listen import Running
from luthier.serving.limits import Limits
from tests import processes
from tests.families.cases import CASES, base_of

QUICK = ("training.steps=2", "training.checkpoint_seconds=0", "training.dtype=float32")
"""Of fp32 on every processor: where it has bf16, runs would be of that, and `predict` and the engine, which computes in fp32, could differ."""
SHORT = Limits(header_seconds=0.7, body_seconds=0.7, write_seconds=0.7, idle_seconds=5, connections=60, waiting=6, generating=6)
"""So that a test waits for no limit."""


class Client:
    """One request after another, each on a connection of its own, as the standard library sends them."""

    def __init__(self, running: Running) -> None:
        self.port = int(running.address.rpartition(":")[2])
        self.token, self.running = running.token, running

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (as JSON where it is), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        given = {name: value for name, value in given.items() if value is not None}
        content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        with contextlib.closing(connection):
            connection.request(method, path, content, given)
            answer = connection.getresponse()
            said = answer.read()
            kind = answer.getheader("content-type") or ""
            return (
                answer.status,
                json.loads(said) if kind == "application/json" and said else said,
                {name.lower(): value for name, value in answer.getheaders()},
            )

    def post(self, path: str, body: Any) -> Any:
        """The body of an answer that must be good."""
        status, said, _ = self("POST", path, body)
        assert status == 200, said
        return said

    def raw(self, content: bytes, seconds: float = 5.0) -> bytes:
        """What comes back for bytes, until the server closes or nothing comes for so long."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as opened:
            opened.sendall(content)
            return read_all(opened)

    def metric(self, start: str) -> float:
        """The sum of the metrics that begin so."""
        text = self("GET", "/metrics")[1].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


def read_all(opened: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := opened.recv(65536):
            found += part
    return found


def until(holds: Any, seconds: float = 30.0) -> bool:
    """Whether something comes to hold within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return bool(holds())


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a family → a run's folder, made once."""
    folder, made = tmp_path_factory.mktemp("served"), {}

    def run_of(name: str) -> Path:
        if name not in made:
            case, place = CASES[name], folder / name
            place.mkdir()
            changes = [*QUICK, *case.changes]
            made[name] = luthier.run(
                case.write(place), base=base_of(case, folder), out=place / f"{name}-run", set=changes, force=True, **case.options
            ).folder
        return made[name]

    return run_of


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tokens are kept."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("LUTHIER_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def log() -> list[str]:
    """The lines of the servers below."""
    return []


@pytest.fixture(scope="session")
def classifier(bundles: Any, home: Path, log: list[str]) -> Iterator[Client]:
    running = luthier.serve(bundles("classification"), port=0, limits=SHORT, say=log.append, log=log.append, wait=False)
    yield Client(running)
    running.close(0)


@pytest.fixture(scope="session")
def chat(bundles: Any, home: Path, log: list[str]) -> Iterator[Client]:
    running = luthier.serve(bundles("chat"), port=0, limits=SHORT, name="talker", say=log.append, log=log.append, wait=False)
    yield Client(running)
    running.close(0)


@pytest.fixture
def slow(chat: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the engine takes 20 ms more, so that queues form."""
    engine: Any = chat.running.service.model.engine
    step = engine._batch.step

    def slowed() -> Any:
        time.sleep(0.02)
        return step()

    monkeypatch.setattr(engine._batch, "step", slowed)


class Process:
    """`luthier serve` in a process of its own."""

    def __init__(self, *words: str, home: Path) -> None:
        self.lines: list[str] = []
        environment = {**os.environ, "LUTHIER_HOME": str(home)}
        self.process = processes.begin("-m", "luthier", "serve", *words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def read_until(self, start: str) -> str:
        """The first line that begins so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return line
        raise AssertionError("\n".join(self.lines))

    def end(self) -> tuple[int, str]:
        """Its exit code and all that it said."""
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, "\n".join([*self.lines, rest])


@pytest.fixture
def start(home: Path) -> Iterator[Any]:
    """Words of a command → a server; none is left behind."""
    begun: list[Process] = []

    def one(*words: object) -> Process:
        begun.append(Process(*map(str, words), home=home))
        return begun[-1]

    yield one
    for each in begun:
        each.process.kill()
        each.process.wait()
        for stream in (each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()
