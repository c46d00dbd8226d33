"""Work for a client ends when the client is gone: before the answer begins, and while it is streamed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request, Response

from luthier.app.server.errors import ClientGone

Result = TypeVar("Result")


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Wait for work, as long as somebody waits for it.

    Args:
        request: whose body has been read.
        work: is cancelled when the client hangs up.

    Raises:
        ClientGone: it did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _end(working, gone)


async def wait_for_disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait until the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class EventStream(Response):
    """Server-sent events.

    Args:
        events: what is sent, each one whole.
        finish: called once, however it ends: the answer is through, the client is gone, or the server stops.
        gone: called when the client hung up before the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], finish: Callable[[], None], gone: Callable[[], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"
        self._events, self._finish, self._gone = events, finish, gone

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events, as long as somebody reads them."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self._gone()
            else:
                sending.result()
        finally:
            self._finish()
            await _end(sending, gone)

    async def _send(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
