"""HTTP/1.1 by uvicorn and h11, with the limits that those lack: on slow headers, on slow readers, and on open connections."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.app.server.errors import error_body
from luthier.serving.limits import Limits

PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class PatientProtocol(H11Protocol):
    """One connection."""

    limits: Limits = Limits()
    _headers_due: asyncio.TimerHandle | None = None
    _write_due: asyncio.TimerHandle | None = None
    idle_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Take a connection; one too many closes the one that has been idle longest."""
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        if len(self.connections) > self.limits.connections:
            idle = [one for one in self.connections if isinstance(one, PatientProtocol) and one is not self and not one.busy]
            if not idle:
                self._say_and_close(503, "too many connections are open")
                return
            oldest = min(idle, key=lambda one: one.idle_since)
            self.connections.discard(oldest)  # now, for the loop tells it only later, and more may come before
            oldest.transport.abort()
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._headers_due = _cancel(self._headers_due)
        self._write_due = _cancel(self._write_due)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; the headers of a request must be whole within their time, however many pieces they come in."""
        super().data_received(data)
        if self.busy:
            self._headers_due = _cancel(self._headers_due)
        elif self._headers_due is None and not self.transport.is_closing():
            self._expect_headers()

    def on_response_complete(self) -> None:
        """From now on the connection is idle."""
        self.idle_since = time.monotonic()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that still does not take what was sent is cut."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take what is sent: it has a while to go on."""
        super().pause_writing()
        if self._write_due is None:
            self._write_due = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._write_due = _cancel(self._write_due)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; h11 knows when it is too long rather than wrong."""
        problem = sys.exc_info()[1]  # uvicorn calls this where it catches h11's error, and does not pass it on
        hint = problem.error_status_hint if isinstance(problem, h11.RemoteProtocolError) else 400
        self._say_and_close(431 if hint == 431 else 400, "the headers are too long" if hint == 431 else "this is no HTTP/1.1 request")

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._headers_due = None
        if not self.busy and not self.transport.is_closing():
            self._say_and_close(408, f"the headers were not there within {self.limits.header_seconds:g} s")

    def _say_and_close(self, status: int, message: str) -> None:
        """Answer outside of h11, which may be in no state to, and end the connection."""
        if self.busy and self.cycle.response_started:
            self.transport.close()
            return
        body = json.dumps(error_body(status, message)).encode()
        head = f"HTTP/1.1 {status} {PHRASES[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)


def protocol_with(limits: Limits) -> type[PatientProtocol]:
    """The protocol with its limits."""
    return type("Protocol", (PatientProtocol,), {"limits": limits})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
