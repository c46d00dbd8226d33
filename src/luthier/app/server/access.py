"""Who may ask a route: every route says so itself, and one that does not say it does not exist."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from luthier.app.server.errors import ClientGone, Refused
from luthier.app.server.strict_json import parse
from luthier.serving.service import Service

OPEN: dict[str, Any] = {"x-access": "open", "security": []}
"""Anybody may ask: it tells nothing of the model, and asks it nothing."""
TOKEN: dict[str, Any] = {"x-access": "token", "security": [{"bearer": []}]}
"""Only who has the token."""
DISCARDED = 256 << 10
"""Bytes of a body that is too large which are read on, so that the client sees the answer and no broken connection."""


class GuardedRoute(APIRoute):
    """A route that says who may ask it, and reads a body within its limits.

    Args:
        path: of it.
        endpoint: that answers.
        options: of FastAPI's; `openapi_extra` is `OPEN` or `TOKEN`.

    Raises:
        ValueError: it does not say who may ask.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        extra = options.get("openapi_extra") or {}
        if extra.get("x-access") not in ("open", "token"):
            raise ValueError(f"the route {path} does not say who may ask it: give openapi_extra=OPEN or TOKEN")
        self.access: str = extra["x-access"]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the check of the token and of the body."""
        answer = super().get_route_handler()

        async def checked(request: Request) -> Response:
            noted = request.scope["luthier"]
            noted.route = self.path
            try:
                return await within_limits(request)
            except (Refused, ClientGone, HTTPException, RequestValidationError):
                raise
            except Exception as problem:  # here, for what lies around the routes would answer it, and raise it once more
                service_of(request).counters.add("luthier_failed_total")
                raise noted.describe_failure(problem) from problem

        async def within_limits(request: Request) -> Response:
            if self.access == "token":
                check_token(request)
            if "POST" not in (self.methods or ()):
                return await answer(request)
            check_type(request)
            content = await read_body(request)
            request._body = content
            request._json = parse(content, request.app.state.service.limits.json_depth)
            return await answer(request)

        return checked


def check_routes(routes: list[BaseRoute]) -> None:
    """Refuse to start with a route that does not say who may ask it.

    Raises:
        ValueError: which.
    """
    for route in routes:
        if not isinstance(route, GuardedRoute):
            raise ValueError(f"the route {getattr(route, 'path', route)} does not say who may ask it")


def hash_token(token: str) -> bytes:
    """What is kept of a token to compare with: all are equally long, so comparing tells nothing of its length either."""
    return hashlib.sha256(token.encode()).digest()


def check_token(request: Request) -> None:
    """Refuse a request without the token.

    Raises:
        Refused: 401.
    """
    headers = request.headers.getlist("authorization")
    kind, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    right = hmac.compare_digest(hash_token(token.strip()), request.app.state.token)
    if not right or kind.lower() != "bearer":
        request.app.state.service.counters.add("luthier_refused_total", reason="token")
        raise Refused(
            401,
            "give the token as `Authorization: Bearer TOKEN`; `luthier serve` says where it is kept",
            None,
            "invalid_api_key",
            {"www-authenticate": "Bearer"},
        )


def check_type(request: Request) -> None:
    """Refuse a body that is no JSON by its own account.

    Raises:
        Refused: 415.
    """
    kind, _, more = request.headers.get("content-type", "").partition(";")
    charset = more.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise Refused(415, "send JSON in UTF-8, with `Content-Type: application/json`")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "send the body uncompressed")


async def read_body(request: Request) -> bytes:
    """The body, never more of it than is allowed, and not for longer.

    Raises:
        Refused: 413 or 408.
        ClientGone: it broke off.
    """
    limits = request.app.state.service.limits
    declared = request.headers.get("content-length", "0")
    too_large = int(declared) > limits.body_bytes if declared.isdigit() and len(declared) < 20 else True
    parts: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(0.2 if too_large else limits.body_seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                received += len(message.get("body", b""))
                if not too_large:
                    parts.append(message.get("body", b""))
                if not too_large and received > limits.body_bytes:
                    too_large, parts = True, []
                if not message.get("more_body") or (too_large and received > limits.body_bytes + DISCARDED):
                    break
    except TimeoutError:
        if not too_large:
            raise Refused(408, f"the body was not there within {limits.body_seconds:g} s") from None
    if too_large:
        raise Refused(413, f"the body has more than {limits.body_bytes:,} bytes", None, "body_too_large")
    return b"".join(parts)


def service_of(request: Request) -> Service:
    """What is served."""
    return request.app.state.service
