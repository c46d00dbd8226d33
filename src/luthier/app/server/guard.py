"""What holds for every request, whatever its path: who may ask at all, what is never too long, what every answer carries, and one line in the log."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.app.server.errors import ClientGone, Refused
from luthier.serving.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Say = Callable[[str], None]

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""What a page of ours may load: its own files, and nothing that stands in a text."""
CARRIED = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
"""Headers of every answer."""


@dataclass
class Noted:
    """What a request's line in the log says beside its status; routes add to it, and never a text."""

    route: str = "-"
    more: list[str] = field(default_factory=list)
    identity: str = field(default_factory=lambda: secrets.token_hex(8))

    def describe_failure(self, problem: Exception) -> Refused:
        """What a client is told of a fault of the server, and the log too: where it is, and no message, which may hold a client's text."""
        self.more.append(f"id {self.identity} {_where(problem)}")
        return Refused(500, f"the server failed; its log has the reason under {self.identity}", None, "internal_error")


class Guard:
    """Stands before all routes.

    Args:
        app: the routes.
        service: its limits and counters.
        hosts: values of the Host header that are answered, exactly.
        say: told a line a request; None says nothing.
    """

    def __init__(self, app: App, service: Service, hosts: set[str], say: Say | None) -> None:
        self._app, self._service, self._say = app, service, say
        self._hosts = {host.encode() for host in hosts}
        self._origins = {f"http://{host}".encode() for host in hosts} | {f"https://{host}".encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        began, noted = time.monotonic(), Noted()
        scope["luthier"] = noted
        status: int | None = None

        async def carrying(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message.get("headers", ())}
                carried = [(name, value) for name, value in CARRIED if name not in names]
                message["headers"] = [*message.get("headers", ()), *carried, (b"x-request-id", noted.identity.encode())]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, carrying)
        except Refused as problem:
            await _answer(carrying, problem.status, problem.body(), {**problem.headers, "connection": "close"})
        except ClientGone:
            self._service.counters.add("luthier_cancelled_total")
            status = 499
        except Exception as problem:
            self._service.counters.add("luthier_failed_total")
            answer = noted.describe_failure(problem)
            if status is None:
                await _answer(carrying, answer.status, answer.body(), {})
            else:
                raise _Broken from None  # the answer has begun: uvicorn closes the connection, so that nobody takes it for whole
        finally:
            self._note(scope, noted, status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        """Refuse requests from elsewhere, and ones that programs along the way might read in different ways.

        Raises:
            Refused: why.
        """
        limits, headers = self._service.limits, scope["headers"]
        if len(scope["raw_path"]) + len(scope["query_string"]) > limits.url_bytes:
            raise Refused(414, f"the URL is longer than {limits.url_bytes} bytes")
        if len(headers) > limits.headers or sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
            raise Refused(431, f"more than {limits.headers} headers, or {limits.header_bytes} bytes of them")
        if not scope["raw_path"].startswith(b"/") or scope["raw_path"].startswith(b"//"):
            raise Refused(400, "the request's target must be a path")
        by_name: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            by_name.setdefault(name, []).append(value)
        host = by_name.get(b"host", [])
        if len(host) != 1 or host[0] not in self._hosts:
            self._service.counters.add("luthier_refused_total", reason="host")
            raise Refused(
                403, "this server does not answer to that Host; name it with --allow-host if it is yours", None, "host_not_allowed"
            )
        if any(origin not in self._origins for origin in by_name.get(b"origin", [])) or any(
            site not in (b"same-origin", b"none") for site in by_name.get(b"sec-fetch-site", [])
        ):
            self._service.counters.add("luthier_refused_total", reason="origin")
            raise Refused(403, "requests from other sites' pages are not answered", None, "origin_not_allowed")
        if b"transfer-encoding" in by_name and (b"content-length" in by_name or by_name[b"transfer-encoding"] != [b"chunked"]):
            raise Refused(400, "Content-Length and Transfer-Encoding together are not answered")

    def _note(self, scope: Scope, noted: Noted, status: int | None, seconds: float) -> None:
        self._service.counters.add("luthier_requests_total", route=noted.route, status=str(status or 499))
        self._service.counters.observe(seconds, route=noted.route)
        if self._say is not None:
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH") else "?"
            line = " · ".join((f"{time.strftime('%H:%M:%S')} {method} {noted.route} {status or 499} {1000 * seconds:.0f} ms", *noted.more))
            with contextlib.suppress(OSError):  # nobody reads the log any longer
                self._say(line)


class _Broken(Exception):
    """An answer broke off."""


async def _answer(send: Send, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    content = json.dumps(body).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    fields += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


def _where(problem: BaseException) -> str:
    """The kind of an error and where it came from, without its message: that may hold a client's text."""
    trace, where = problem.__traceback__, "?"
    while trace is not None:
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(problem).__name__} at {where}"
