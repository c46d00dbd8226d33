"""OpenAI's routes for text: conversations and completions, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from luthier.app.server.access import TOKEN, service_of
from luthier.app.server.answers import WORKING, Completion
from luthier.app.server.connections import EventStream, while_connected
from luthier.app.server.errors import Refused, error_body, refuse
from luthier.app.server.prediction_routes import acquire, answer, does_not, make_id, usage
from luthier.app.server.requests import AnyText, ChatRequest, CompletionRequest, JsonOfSchema, Sampling, Turn
from luthier.app.server.writing import Answer, Stopped, cancel, completion_logprobs, start, token_entry
from luthier.core.errors import DataError, LuthierError
from luthier.core.types import Message
from luthier.serving.interface import EngineFailed, Token
from luthier.serving.prompts import Prompts
from luthier.serving.service import ServedModel

if TYPE_CHECKING:
    from luthier.models.decoding.grammar import Grammar

Tokens = list[tuple[Token, int]]
STREAMED: dict[int | str, dict[str, Any]] = {
    **WORKING,
    200: {
        "description": "The answer; with `stream`, server-sent events of its pieces, closed by `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
}


class Shape:
    """How an answer of one route looks: a choice of a whole answer, and of a piece.

    Args:
        kind: of the whole.
        piece_kind: of a piece.
        prefix: of its id.
        whole: index, text, tokens, reason → a choice.
        piece: index, text, tokens, reason or None, whether it is the first → a choice.
    """

    def __init__(
        self,
        kind: str,
        piece_kind: str,
        prefix: str,
        whole: Callable[[int, str, Tokens, str], dict[str, Any]],
        piece: Callable[[int, str, Tokens, str | None, bool], dict[str, Any]],
    ) -> None:
        self.kind, self.piece_kind, self.prefix, self.whole, self.piece = kind, piece_kind, prefix, whole, piece


def add_writing_routes(app: FastAPI) -> None:
    """Add them.

    Args:
        app: the server.
    """
    _add_chat_route(app)
    _add_completion_route(app)


def _add_chat_route(app: FastAPI) -> None:
    """Answers to conversations."""

    @app.post("/v1/chat/completions", openapi_extra=TOKEN, response_model=Completion, responses=STREAMED, tags=["OpenAI"])
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """The answer to a conversation, by the template that the model was trained with."""
        if body.top_logprobs and not body.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true", "top_logprobs", "invalid_value")
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise Refused(400, "max_tokens is the older name of max_completion_tokens: give one", "max_tokens", "invalid_value")
        limit = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
        turns = [as_message(turn) for turn in body.messages]

        def read(model: ServedModel, prompts: Prompts) -> list[list[int]]:
            if not model.family.converses:
                raise does_not(model, "holds no conversations", "/v1/chat/completions")
            try:
                return [prompts.of_conversation(turns)]
            except ValueError as problem:
                raise Refused(400, str(problem), "messages", "invalid_value") from None

        top = body.top_logprobs or 0

        def logprobs(prompts: Prompts, tokens: Tokens) -> dict[str, Any] | None:
            return {"content": [token_entry(prompts, token, top) for token, _ in tokens], "refusal": None} if body.logprobs else None

        def shape(prompts: Prompts) -> Shape:
            return Shape(
                "chat.completion", "chat.completion.chunk", "chatcmpl",
                lambda index, text, tokens, reason: {"index": index, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": logprobs(prompts, tokens), "finish_reason": reason},
                lambda index, text, tokens, reason, first: {
                    "index": index, "delta": ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {}),
                    "logprobs": logprobs(prompts, tokens) if tokens else None, "finish_reason": reason,
                },
            )  # fmt: skip

        return await write(request, body, read, limit, max(top, 1) if body.logprobs else 0, "messages", shape)


def _add_completion_route(app: FastAPI) -> None:
    """How texts go on."""

    @app.post("/v1/completions", openapi_extra=TOKEN, response_model=Completion, responses=STREAMED, tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """How texts go on."""
        prompt: Any = body.prompt
        several = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt

        def read(model: ServedModel, prompts: Prompts) -> list[list[int]]:
            return [prompts.of_text(each) if isinstance(each, str) else list(each) for each in several]

        def logprobs(prompts: Prompts, tokens: Tokens) -> dict[str, Any] | None:
            return completion_logprobs(prompts, tokens, body.logprobs) if body.logprobs is not None else None

        def shape(prompts: Prompts) -> Shape:
            def choice(index: int, text: str, tokens: Tokens, reason: str | None, first: bool = False) -> dict[str, Any]:
                return {"index": index, "text": text, "logprobs": logprobs(prompts, tokens), "finish_reason": reason}

            return Shape("text_completion", "text_completion", "cmpl", choice, choice)

        return await write(request, body, read, body.max_tokens, 0 if body.logprobs is None else max(body.logprobs, 1), "prompt", shape)


def grammar_of(body: Sampling, model: ServedModel, prompts: Prompts) -> Grammar | None:
    """The grammar that an answer must follow; None where it may be any text.

    Raises:
        Refused: it cannot be followed, or the package that follows it is not installed.
    """
    if body.response_format is None or isinstance(body.response_format, AnyText):
        return None
    if body.stop:
        raise Refused(400, "stop could cut the JSON before its end; leave stop out, or response_format", "stop", "invalid_value")
    assert model.engine is not None
    if not model.engine.holds_grammars:
        message = "this server's engine cannot hold an answer to JSON; leave response_format out, or serve with --engine torch"
        raise Refused(400, message, "response_format", "unsupported_value")
    form = body.response_format
    schema = form.json_schema.schema_ if isinstance(form, JsonOfSchema) else {"type": "object"}
    try:
        return prompts.grammar_of(schema, model.engine.vocabulary)
    except LuthierError as problem:
        field = "response_format.json_schema.schema" if isinstance(problem, DataError) else "response_format"
        raise Refused(400, f"{problem.message}; {problem.remedy}", field, "invalid_value") from None


def as_message(turn: Turn) -> Message:
    """A turn as the template reads it."""
    content = turn.content if isinstance(turn.content, str) else "\n\n".join(part.text for part in turn.content)
    return {"role": "system" if turn.role == "developer" else turn.role, "content": content}


async def write(
    request: Request, body: Sampling, read: Callable[[ServedModel, Prompts], list[list[int]]], limit: int | None, top: int, field: str,
    shape_of: Callable[[Prompts], Shape],
) -> Response:  # fmt: skip
    """Answer a request by the generation engine.

    Args:
        request: of the client.
        body: of it.
        read: its texts → token ids.
        limit: tokens that an answer may have.
        top: likeliest tokens told beside each.
        field: of the body, that holds the texts.
        shape_of: how the answer looks.

    Raises:
        Refused: it cannot be answered, or too many wait.
    """
    if body.stream_options is not None and not body.stream:
        raise Refused(400, "stream_options needs stream: true", "stream_options", "invalid_value")
    service = service_of(request)
    model = acquire(service, body.model)
    answers: list[Answer] = []
    handed_over = False
    try:
        if model.engine is None or model.prompts is None:
            raise does_not(model, "writes no text", request.scope["luthier"].route)
        prompts = model.prompts
        try:
            ids = await asyncio.to_thread(read, model, prompts)  # a long text takes a while to cut into tokens
            grammar = None if body.response_format is None else await asyncio.to_thread(grammar_of, body, model, prompts)
            answers = start(model, prompts, ids, body, limit, top, field, service.limits, grammar)
        except LuthierError as problem:
            refused = refuse(problem, field)
            service.counters.add("luthier_refused_total", reason=refused.code or "invalid")
            raise refused from None
        shape, read_tokens = shape_of(prompts), sum(len(each) for each in ids)
        if body.stream:
            ended = _once(lambda: (cancel(answers), service.release(model)))
            events = stream(request, body, model, answers, shape, read_tokens)
            response = EventStream(events, ended, lambda: service.counters.add("luthier_cancelled_total"))
            handed_over = True  # the stream gives them back
            return response
        return await answer_whole(request, model, answers, shape, read_tokens)
    finally:
        if not handed_over:
            cancel(answers)
            service.release(model)


async def answer_whole(request: Request, model: ServedModel, answers: list[Answer], shape: Shape, read_tokens: int) -> Response:
    """An answer in one piece.

    Raises:
        Refused: the server shuts down before it is whole.
    """

    async def collect(each: Answer) -> tuple[str, Tokens]:
        pieces = [piece async for piece in each]
        return "".join(piece.text for piece in pieces), [token for piece in pieces for token in piece.tokens]

    try:
        texts = await while_connected(request, asyncio.gather(*(collect(each) for each in answers)))
    except Stopped:
        raise Refused(503, "the server is shutting down", None, "shutting_down", {"retry-after": "2"}) from None
    except EngineFailed as problem:
        service_of(request).counters.add("luthier_failed_total")
        raise refuse(problem) from None
    choices = [
        shape.whole(index, text, tokens, each.reason) for index, (each, (text, tokens)) in enumerate(zip(answers, texts, strict=True))
    ]
    made = sum(each.tokens for each in answers)
    return answer(
        {
            "id": make_id(shape.prefix),
            "object": shape.kind,
            "created": int(time.time()),
            "model": model.name,
            "choices": choices,
            "usage": usage(request, read_tokens, made),
        }
    )


async def stream(
    request: Request, body: Sampling, model: ServedModel, answers: list[Answer], shape: Shape, read_tokens: int
) -> AsyncIterator[bytes]:
    """An answer as events, several answers as their pieces come."""
    base = {"id": make_id(shape.prefix), "object": shape.piece_kind, "created": int(time.time()), "model": model.name}
    counted = bool(body.stream_options and body.stream_options.include_usage)
    more: dict[str, Any] = {"usage": None} if counted else {}
    queue: asyncio.Queue[tuple[int, dict[str, Any] | None, Exception | None]] = asyncio.Queue()

    async def follow(index: int, each: Answer) -> None:
        try:
            first = True
            async for piece in each:
                queue.put_nowait((index, shape.piece(index, piece.text, piece.tokens, None, first), None))
                first = False
            queue.put_nowait((index, shape.piece(index, "", [], each.reason, first), None))
            queue.put_nowait((index, None, None))
        except Exception as problem:
            queue.put_nowait((index, None, problem))

    following = [asyncio.ensure_future(follow(index, each)) for index, each in enumerate(answers)]
    try:
        left = len(answers)
        while left:
            _, choice, problem = await queue.get()
            if problem is not None:
                yield _event(_describe_break(request, problem))
                break
            if choice is None:
                left -= 1
                continue
            yield _event(base | {"choices": [choice]} | more)
        said = usage(request, read_tokens, sum(each.tokens for each in answers))
        if counted and not left:
            yield _event(base | {"choices": [], "usage": said})
        yield b"data: [DONE]\n\n"
    finally:
        for task in following:
            task.cancel()


def _describe_break(request: Request, problem: Exception) -> dict[str, Any]:
    """What the last event of an answer says that did not become whole."""
    if isinstance(problem, Stopped):
        return error_body(503, "the server is shutting down", None, "shutting_down")
    service_of(request).counters.add("luthier_failed_total")
    request.scope["luthier"].more.append(f"broke off: {type(problem).__name__}")
    if isinstance(problem, EngineFailed):
        return refuse(problem).body()
    return error_body(500, "the answer failed", None, "internal_error")


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def _once(function: Callable[[], Any]) -> Callable[[], None]:
    """A function that does its work the first time alone."""
    left = [function]

    def call() -> None:
        if left:
            left.pop()()

    return call
