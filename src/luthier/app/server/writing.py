"""One answer of the generation engine as a server sends it: text piece by piece, why it ended, and the tokens' log-probabilities."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.app.server.errors import Refused
from luthier.app.server.requests import Sampling
from luthier.serving.interface import Generation, GenerationRequest, Token
from luthier.serving.limits import Limits
from luthier.serving.prompts import Prompts
from luthier.serving.service import ServedModel
from luthier.serving.text_stream import Piece, TextStream

if TYPE_CHECKING:
    from luthier.models.decoding.grammar import Grammar


class Stopped(Exception):
    """The server ended an answer before it was whole."""


@dataclass
class Answer:
    """An answer while it is being made.

    Args:
        generation: of the engine.
        stream: that makes text of its tokens.
        tokens: that were made so far.
        reason: why it ended, in OpenAI's words; empty while it goes on.
    """

    generation: Generation
    stream: TextStream
    tokens: int = 0
    reason: str = ""

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces of its text, the last one with what was held back; each has some text or tokens.

        Raises:
            Stopped: the server shuts down.
            Exception: what ended it in the engine.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(changed.set)

        self.generation.on_change(tell)
        while True:
            changed.clear()
            done = self.generation.done  # read before the tokens: what is added later is seen in the next round
            taken = self.generation.take()
            if taken:
                self.tokens += len(taken)
                piece = self.stream.push(taken)
                if piece.text or piece.tokens:
                    yield piece
                if self.stream.stopped:
                    self.reason = "stop"
                    self.generation.cancel()
                    return
            elif done:
                break
            else:
                await changed.wait()
        if self.generation.error is not None:
            raise self.generation.error
        if self.generation.finish_reason == "cancelled":
            raise Stopped
        self.reason = "length" if self.generation.finish_reason == "length" else "stop"
        last = self.stream.finish()
        self.reason = "stop" if self.stream.stopped else self.reason
        if last.text or last.tokens:
            yield last


def start(
    model: ServedModel,
    prompts: Prompts,
    ids: Sequence[Sequence[int]],
    body: Sampling,
    limit: int | None,
    logprobs: int,
    field: str,
    limits: Limits,
    grammar: Grammar | None = None,
) -> list[Answer]:
    """Hand prompts to the engine; all of them, or none.

    Args:
        model: that writes.
        prompts: its tokenizer.
        ids: tokens of each prompt.
        body: of the request: how tokens are drawn, and where an answer stops.
        limit: tokens that an answer may have; None: as many as by default, where there is room.
        logprobs: likeliest tokens that are told beside each.
        field: of the body, that holds the prompts.
        limits: of the server.
        grammar: that the answers must follow.

    Raises:
        Refused: a prompt is empty or too long; the length is checked before anything waits.
        EngineFull: too many wait.
    """
    engine = model.engine
    assert engine is not None
    requests = [as_request(model, prompts, prompt, body, limit, logprobs, field, limits, grammar) for prompt in ids]
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    for request in requests:
        engine.check(request)
    started: list[Answer] = []
    try:
        for request in requests:
            started.append(Answer(engine.submit(request), TextStream(prompts.decode, stops)))
    except Exception:
        cancel(started)
        raise
    return started


def as_request(
    model: ServedModel,
    prompts: Prompts,
    prompt: Sequence[int],
    body: Sampling,
    limit: int | None,
    logprobs: int,
    field: str,
    limits: Limits,
    grammar: Grammar | None,
) -> GenerationRequest:
    """A prompt as the engine takes it; see `start`.

    Raises:
        Refused: it is empty or too long.
    """
    room = model.context - len(prompt)
    vocabulary = model.engine.vocabulary if model.engine is not None else 0
    if not prompt:
        raise Refused(400, "the prompt is empty", field, "invalid_value")
    if any(token >= vocabulary for token in prompt):
        raise Refused(400, f"token ids are below {vocabulary}", field, "invalid_value")
    if room < 1 or (limit is not None and limit > room):
        asks = f" and {limit} of the answer" if limit is not None else ""
        message = f"{len(prompt)} tokens of the prompt{asks} do not fit: the model reads {model.context} together"
        named = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
        raise Refused(422, message, named if room >= 1 else field, "context_length_exceeded")
    seed = secrets.randbits(31) if body.seed is None else body.seed % (1 << 63)
    return GenerationRequest(
        tuple(int(token) for token in prompt), min(limits.default_tokens, room) if limit is None else limit, float(body.temperature or 0.0),
        1.0 if body.top_p is None else float(body.top_p), body.top_k or 0, seed, prompts.ends, logprobs, grammar, whole=not (body.stream or body.stop),
    )  # fmt: skip


def cancel(answers: Sequence[Answer]) -> None:
    """End answers that nobody waits for; those that are through stay as they are."""
    for each in answers:
        each.generation.cancel()


def token_entry(prompts: Prompts, token: Token, top: int) -> dict[str, Any]:
    """A token's log-probability as chat answers hold it."""

    def one(identity: int, logprob: float) -> dict[str, Any]:
        return {"token": prompts.token_text(identity), "logprob": max(logprob, -9999.0), "bytes": prompts.token_bytes(identity)}

    return {**one(token.id, token.logprob), "top_logprobs": [one(*each) for each in token.top[:top]]}


def completion_logprobs(prompts: Prompts, tokens: Sequence[tuple[Token, int]], top: int) -> dict[str, Any]:
    """Tokens' log-probabilities as completions hold them."""
    return {
        "tokens": [prompts.token_text(token.id) for token, _ in tokens],
        "token_logprobs": [max(token.logprob, -9999.0) for token, _ in tokens],
        "top_logprobs": [{prompts.token_text(identity): max(value, -9999.0) for identity, value in token.top[:top]} for token, _ in tokens]
        if top
        else None,
        "text_offset": [offset for _, offset in tokens],
    }
