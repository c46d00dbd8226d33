"""Serve a bundle: a socket, a token, the application, and an end in which nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from luthier.app.server.addresses import LOOPBACK, allowed_hosts, bind, url
from luthier.app.server.application import make_application
from luthier.app.server.guard import App
from luthier.app.server.protocol import protocol_with
from luthier.app.server.token_file import keep_token
from luthier.models.base import Base
from luthier.pilot.serve import alias_of, check_bundle, describe_bundle, follow_alias, load_model
from luthier.pilot.stages.opened_bundle import Say
from luthier.pilot.stages.serving_engines import check_engine
from luthier.pilot.stages.serving_precision import check_precision
from luthier.serving.limits import Limits
from luthier.serving.service import ServedModel, Service

IMAGE_BODY = 16 << 20
"""Bytes of a body that holds images."""
FLUSH_SECONDS = 3
"""That answers which are through have to reach their clients before the process ends."""


class Running:
    """A server at work.

    Args:
        server: of uvicorn.
        service: what it serves.
        address: of it.
        token: that clients have to give.
        token_file: that holds it.
    """

    def __init__(self, server: GracefulServer, service: Service, address: str, token: str, token_file: Path) -> None:
        self.server, self.service, self.address, self.token, self.token_file = server, service, address, token, token_file
        self.problem: Exception | None = None
        self.stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, sockets: list[socket.socket]) -> None:
        """Serve until it is stopped.

        Raises:
            LuthierError: the model could not be loaded.
        """
        try:
            self.server.run(sockets)
        finally:
            self.stopped.set()
            with contextlib.suppress(OSError):
                self.token_file.unlink() if self.problem is not None else None
        if self.problem is not None:
            raise self.problem

    def start(self, sockets: list[socket.socket]) -> None:
        """Serve in a thread of its own, and come back once the model answers: it is loaded, and the port is listened on.

        Raises:
            LuthierError: the model could not be loaded.
        """

        def work() -> None:
            with contextlib.suppress(Exception):  # `problem` has it
                self.run(sockets)

        self._thread = threading.Thread(target=work, name="luthier-serve", daemon=True)
        self._thread.start()
        self.wait_until(lambda: self.server.started and self.service.state != "loading")
        if self.problem is not None:
            raise self.problem

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, or the server has ended."""
        while not (holds() or self.stopped.is_set()):
            time.sleep(0.01)

    def close(self, grace: float = 1.0) -> None:
        """Let running requests finish for so many seconds, and end the server."""
        self.server.begin_end(grace)
        self.stopped.wait(grace + FLUSH_SECONDS + 5)


class GracefulServer(uvicorn.Server):
    """A server that, when it is asked to end, says so to new requests while it finishes those that run.

    Args:
        config: of uvicorn.
        service: what it serves.
        say: told what happens.
    """

    def __init__(self, config: uvicorn.Config, service: Service, say: Say) -> None:
        super().__init__(config)
        self._service, self._say = service, say
        self._ending: threading.Thread | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C begin the end; the process then exits with 0, and uvicorn's own way would raise the signal again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._ending is not None:
            self.force_exit = self.should_exit = True
            return
        self.begin_end(self._service.limits.grace_seconds)

    def begin_end(self, grace: float) -> None:
        """Take no new requests, and end once those that run are through, or after so many seconds."""
        if self._ending is not None:
            return

        def end() -> None:
            running = self._service.running
            self._say(f"ending: {running} request{'s' * (running != 1)} may finish within {grace:g} s")
            finished = self._service.drain(grace)
            if not finished:
                self._say("the rest were told that the server ends")
            time.sleep(0.1)  # what was just told is on its way
            self.should_exit = True

        self._ending = threading.Thread(target=end, name="luthier-end", daemon=True)
        self._ending.start()


def serve(
    bundle: str | os.PathLike[str],
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    token: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    name: str | None = None,
    allow_host: Sequence[str] = (),
    limits: Limits | None = None,
    say: Say | None = None,
    log: Say | None = None,
    wait: bool = True,
) -> Running:
    """Serve a bundle over HTTP: OpenAI's routes, vLLM's `/classify` and `/score`, and `/predict` for every family.

    Args:
        bundle: RUN/bundle, the run's folder, the run itself, or an alias.
        port: that it listens on; 0 takes a free one.
        host: address that it listens on; others than this machine's own can then reach it.
        token: that clients have to give; one is made when not given.
        engine: what computes: auto, torch, llama.cpp or onnx.
        precision: in which torch writes text: fp32, int8, or auto: the tokens of fp32, drafted in int8 where that is faster.
        name: by which clients ask for the model; the alias's or the run's name when not given.
        allow_host: further values of the Host header that are answered, such as "models.example:8000".
        limits: of the server.
        say: told what a person should know; printed to stderr when not given.
        log: told a line a request; nobody is when not given.
        wait: serve until the process is told to end; False comes back once the model answers, and serves in a thread.

    Returns:
        The server: its `address` and `token`, and `close()`.

    Raises:
        LuthierError: the bundle is not whole, the port is taken, or the model cannot be loaded.
    """
    say = say or _print
    check_engine(engine)
    check_precision(precision, engine)
    alias = alias_of(bundle)
    name = name or (alias.name if alias is not None else None)
    base = check_bundle(bundle, say)
    check_engine(engine, base)
    check_precision(precision, engine, base)
    about = describe_bundle(base, name)
    limits = limits or _limits_for(base)
    opened = bind(host, port)
    real = opened.getsockname()[1]
    shows_token = token is None and sys.stderr.isatty()
    token, file = keep_token(real, token, port == 0)
    service = Service(limits)
    app = make_application(service, token, allowed_hosts(host, real, allow_host), log)
    server = GracefulServer(_configure(app, limits), service, say)
    running = Running(server, service, url(host, real), token, file)
    for line in introduce(about, running, host, shows_token):
        say(line)

    def open_model(bundle: Base) -> ServedModel:
        return load_model(bundle, name, engine, limits, say, precision)

    arguments = (running, base, open_model, alias.name if alias is not None else None, say)
    threading.Thread(target=_load, args=arguments, name="luthier-load", daemon=True).start()
    running.run([opened]) if wait else running.start([opened])
    return running


def _load(running: Running, base: Base, open_model: Callable[[Base], ServedModel], alias: str | None, say: Say) -> None:
    """Load the model, follow its alias where it has one, and say that it answers; where it cannot be loaded, the server ends with the problem."""
    try:
        model = running.service.load(lambda: open_model(base))
    except Exception as problem:
        running.problem = problem
        running.server.should_exit = True
        return
    if alias is not None:
        follow_alias(running.service, alias, open_model, say, running.stopped)
    running.wait_until(lambda: running.server.started)  # a small model is loaded before the port is listened on
    say(f"ready: {model.about['engine']}; try it: {curl_line(model, running)}")


def _configure(app: App, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves: our protocol, no log of its own, and a short time for what is still on its way at the end."""
    return uvicorn.Config(
        app, http=protocol_with(limits), ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False, server_header=False,
        timeout_keep_alive=int(limits.idle_seconds), h11_max_incomplete_event_size=limits.header_bytes, timeout_graceful_shutdown=FLUSH_SECONDS, backlog=256,
    )  # fmt: skip


def _limits_for(base: Base) -> Limits:
    """The usual limits; a body that holds images may be larger."""
    return dataclasses.replace(Limits(), body_bytes=IMAGE_BODY) if base.kind == "image" else Limits()


def introduce(about: dict[str, Any], running: Running, host: str, shows_token: bool) -> list[str]:
    """What a person is told when the server starts: what, where, and how to use it.

    Args:
        about: the bundle.
        running: the server.
        host: that it listens on.
        shows_token: whether the page's address has the token: to a terminal, not to a file of logs that others may read.
    """
    verdict = about["verdict"]
    judged = (
        f"{verdict['verdict'].replace('_', ' ')}: {verdict['metric']} {verdict['value']:.3f} [{verdict['low']:.3f}, {verdict['high']:.3f}]"
        if verdict
        else "no verdict beside it"
    )
    lines = [
        f"serving {about['name']} ({about['family']}, {judged})",
        f"page    {running.address}/#token={running.token}" if shows_token else f"page    {running.address}/ (it asks for the token)",
        f"token   kept in {running.token_file} (only you can read it); clients send it as Authorization: Bearer",
        f"routes  {running.address}/docs",
    ]
    if host not in LOOPBACK:
        lines.append(
            f"exposed other machines can reach it at port {running.address.rpartition(':')[2]} of {host}, unencrypted, with the token; they must name a Host of --allow-host"
        )
    return lines


def curl_line(model: ServedModel, running: Running) -> str:
    """A line that asks the model, to be pasted."""
    example = next(iter(model.example.values()))
    if model.engine is not None and model.family.converses:
        path, body = "/v1/chat/completions", {"model": model.name, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32}
    elif model.engine is not None:
        path, body = "/v1/completions", {"model": model.name, "prompt": "It was", "max_tokens": 32}
    elif model.family.kind.classes and len(model.example) == 1 and not model.family.kind.images:
        path, body = "/classify", {"input": example}
    else:
        path, body = "/predict", {"rows": [model.example]}
    header = f'-H "Authorization: Bearer $(cat {shlex.quote(str(running.token_file))})" -H "Content-Type: application/json"'
    return f"curl {running.address}{path} {header} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
