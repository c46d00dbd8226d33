"""What a client is told when something is wrong, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import DataError, ExperimentError, LuthierError
from luthier.pilot.serve import TextTooLong
from luthier.serving.interface import EngineClosed, EngineFailed, EngineFull, RequestRefused
from luthier.serving.prediction_queue import QueueClosed, QueueFull
from luthier.serving.service import NotReady

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Status → what OpenAI calls such an error; other ones of the client are `invalid_request_error`."""
SHOWN = 400
"""Characters of a message."""


class Refused(Exception):
    """A request is not answered.

    Args:
        status: of the answer.
        message: what is wrong, and the remedy.
        param: the field that it is about.
        code: a word that programs can compare.
        headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return error_body(self.status, self.message, self.param, self.code)


class ClientGone(Exception):
    """The client hung up before its answer was there."""


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it.

    Args:
        status: of the answer.
        message: for a person.
        param: the field that it is about.
        code: for a program.
    """
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message[:SHOWN], "type": kind, "param": param, "code": code}}


def refuse(problem: LuthierError, param: str | None = None) -> Refused:
    """An error of Luthier as an answer.

    Args:
        problem: what went wrong; one that is nobody's mistake but the server's is raised again.
        param: the field of the request that it is about.

    Raises:
        LuthierError: it is none that a client can mend.
    """
    message = f"{problem.message}; {problem.remedy}" if problem.remedy else problem.message
    if isinstance(problem, QueueFull | EngineFull):
        return Refused(429, message, None, "queue_full", {"retry-after": str(getattr(problem, "seconds", 1))})
    if isinstance(problem, EngineFailed):
        return Refused(503, message, None, "engine_failed")
    if isinstance(problem, NotReady | QueueClosed | EngineClosed):
        return Refused(503, message, None, "not_ready", {"retry-after": "2"})
    if isinstance(problem, TextTooLong):
        return Refused(422, message, param, "text_too_long")
    if isinstance(problem, RequestRefused | DataError | ExperimentError):
        return Refused(400, message, param, "invalid_value")
    raise problem
