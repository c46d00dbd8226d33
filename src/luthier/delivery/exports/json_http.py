"""JSON over HTTP to a server of language models, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from luthier.core.errors import ModelError

PATIENCE = 300.0
"""Seconds that an answer may take."""
MOST = 1 << 28
"""Bytes that an answer may have."""


class Refused(ModelError):
    """The server answered that it will not do what was asked.

    Args:
        status: of HTTP.
        message: with the server's own words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, "see whether the address is right and the server offers this route")
        self.status = status


class JsonServer:
    """A connection that stays open.

    Args:
        url: "http://127.0.0.1:8080"; a path in it stands before every route.
        token: that is sent as a bearer token; empty for none. It stands in no message.
        patience: seconds that an answer may take.

    Raises:
        ModelError: not an address of HTTP.
    """

    def __init__(self, url: str, token: str = "", patience: float = PATIENCE) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ModelError(f"{url} is not the address of a server", "give it as http://127.0.0.1:8080")
        if parts.username or parts.password or "token" in parts.query or "key" in parts.query:
            raise ModelError(
                "an address may hold no secret: it would stand in logs", "give the token by the environment variable LUTHIER_ENDPOINT_TOKEN"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._parts, self._token, self._patience = parts, token, patience
        self._open: http.client.HTTPConnection | None = None

    def get(self, route: str) -> Any:
        """What the server says at a route.

        Raises:
            Refused: it answers with an error.
            ModelError: it does not answer, or not in JSON.
        """
        return self._ask("GET", route, None)

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """What the server says to a question; see `get`."""
        return self._ask("POST", route, json.dumps(body, ensure_ascii=False).encode())

    def close(self) -> None:
        """Let go of the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _ask(self, method: str, route: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        reused = self._open is not None
        try:
            status, content = self._exchange(method, route, body, headers)
        except (OSError, http.client.HTTPException) as problem:
            self.close()
            if not reused:
                raise self._silent(route, problem) from None
            try:  # a connection that stayed open may have been closed by the server meanwhile
                status, content = self._exchange(method, route, body, headers)
            except (OSError, http.client.HTTPException) as again:
                self.close()
                raise self._silent(route, again) from None
        text = content.decode("utf-8", "replace")
        if status >= 400:
            raise Refused(status, f"{self.url}{route} answers {status}: {' '.join(text.split())[:300]}")
        try:
            return json.loads(text)
        except ValueError:
            raise Refused(status, f"{self.url}{route} answers in something else than JSON: {text[:80]!r}") from None

    def _exchange(self, method: str, route: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._open = self._open or self._connect()
        connection.request(method, self._parts.path.rstrip("/") + route, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST)

    def _silent(self, route: str, problem: Exception) -> ModelError:
        return ModelError(f"{self.url}{route} does not answer: {problem}", "see whether the server runs, and whether the address is right")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._patience, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=self._patience)
