"""What clients are answered, for the OpenAPI document: OpenAI's shapes and vLLM's."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class AnswerBody(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ErrorDetail(AnswerBody):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(AnswerBody):
    """An answer to a request that was refused, or that failed."""

    error: ErrorDetail


class Usage(AnswerBody):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ModelCard(AnswerBody):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(AnswerBody):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


class Completion(AnswerBody):
    """Answers in words."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class AnswerList(AnswerBody):
    """One item a text."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str


class ListWithUsage(AnswerList):
    """One item a text, and the tokens that were read."""

    usage: Usage


class Health(AnswerBody):
    """Whether the server is up."""

    status: Literal["ok", "loading", "busy", "draining", "failed"]
    reason: str | None = None


WRONG: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "A field is wrong, or the body is not JSON."},
    403: {"model": Error, "description": "The Host or the Origin is not one that is answered."},
    408: {"model": Error, "description": "The body was not there in time."},
    413: {"model": Error, "description": "The body is too large."},
    414: {"model": Error, "description": "The URL is too long."},
    431: {"model": Error, "description": "The headers are too long."},
}
"""Answers of every route."""
LOCKED: dict[int | str, dict[str, Any]] = {**WRONG, 401: {"model": Error, "description": "The token is missing or wrong."}}
"""Answers of routes that need the token."""
WORKING: dict[int | str, dict[str, Any]] = {
    **LOCKED,
    404: {"model": Error, "description": "There is no such model here, or it does not do this."},
    415: {"model": Error, "description": "The body is no JSON in UTF-8."},
    422: {"model": Error, "description": "The text is longer than the model reads."},
    429: {"model": Error, "description": "The queue is full; Retry-After says when to ask again."},
    500: {"model": Error, "description": "The server failed; its log has the reason under x-request-id."},
    503: {"model": Error, "description": "The model is being loaded, its engine has failed, or the server is shutting down."},
}
"""Answers of routes that ask the model."""
