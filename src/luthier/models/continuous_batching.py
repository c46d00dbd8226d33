"""Continuous batching: requests join and leave between steps, and one pass through the network serves all that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from luthier.models.decode_pages import PAGE, PagePool
from luthier.models.decode_request import GenerationRequest, Token
from luthier.models.decode_sampling import choose
from luthier.models.decode_step import Decoder, Span

CHUNK = 128
"""Tokens of prompts in one step where nobody waits for a next token."""
CHUNK_BESIDE = 32
"""Tokens of prompts in one step beside texts that are being written: so long they wait longer for their next token."""


@dataclass
class Text:
    """A request that is in the network.

    Args:
        request: what was asked.
        pages: where its keys and values lie.
        cached: tokens of the prompt that were computed for an earlier one.
    """

    request: GenerationRequest
    pages: list[int]
    cached: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    remembered: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.computed = self.cached
        self.remembered = self.cached // PAGE

    @property
    def made(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)


@dataclass(frozen=True)
class Outcome:
    """What a step brought one text: tokens, its end, or an error.

    Args:
        text: whose it is.
        tokens: that were added; the token that ended it is not among them.
        finish: why it has ended; None where it goes on.
        error: what went wrong.
    """

    text: Text
    tokens: tuple[Token, ...] = ()
    finish: Literal["stop", "length", "error"] | None = None
    error: Exception | None = None


class Batch(Protocol):
    """Texts that go through a network together."""

    @property
    def texts(self) -> Sequence[Text]:
        """Those that are in it."""
        ...

    def join(self, request: GenerationRequest) -> Text | None:
        """Take a request in; None where there is no room now."""
        ...

    def leave(self, text: Text) -> None:
        """Take a text out; its room is free."""
        ...

    def step(self) -> list[Outcome]:
        """One pass through the network; texts that have ended have left."""
        ...


def refuse_reason(request: GenerationRequest, vocabulary: int, context: int) -> str | None:
    """Why a request can never be answered; None where it can.

    Args:
        request: as given.
        vocabulary: token ids are below this.
        context: tokens that prompt and answer may have together.
    """
    if not request.prompt:
        return "prompt has no tokens"
    for number in request.prompt:
        if not 0 <= number < vocabulary:
            return f"prompt holds the token {number}, and token ids go from 0 to {vocabulary - 1}"
    if request.limit < 1:
        return f"limit is {request.limit}, and at least one token must be allowed"
    if len(request.prompt) + request.limit > context:
        return f"prompt ({len(request.prompt)} tokens) and limit ({request.limit}) are more than {context} tokens together"
    if not (math.isfinite(request.temperature) and 0 <= request.temperature <= 100):
        return f"temperature is {request.temperature}, not a number from 0 to 100"
    if not 0 < request.top_p <= 1:
        return f"top_p is {request.top_p}, not above 0 and at most 1"
    if request.top_k < 0:
        return f"top_k is {request.top_k}, below 0"
    if not 0 <= request.logprobs <= 100:
        return f"logprobs is {request.logprobs}, not from 0 to 100"
    return None


class ContinuousBatch:
    """Texts that go through one decoder together.

    A text holds pages for its prompt and its whole answer from the beginning, so that none ever has to be thrown out.

    Args:
        decoder: computes, and holds the keys and values.
        pool: says whose they are.
        slots: the most texts at once.
    """

    def __init__(self, decoder: Decoder, pool: PagePool, slots: int) -> None:
        self.decoder, self.pool, self.slots = decoder, pool, slots
        self.texts: list[Text] = []

    def join(self, request: GenerationRequest) -> Text | None:
        """Take a request in, with what earlier texts have computed of its prompt; None where there is no room now."""
        if len(self.texts) >= self.slots:
            return None
        shared = self.pool.find(request.prompt)
        needed = -(-(len(request.prompt) + request.limit) // PAGE)
        pages = self.pool.take(shared, needed - len(shared))
        if pages is None:
            return None
        text = Text(request, pages, len(shared) * PAGE)
        self.texts.append(text)
        return text

    def leave(self, text: Text) -> None:
        """Take a text out; what it has computed stays known until its pages are needed."""
        self.texts.remove(text)
        self.pool.release(text.pages)

    def step(self) -> list[Outcome]:
        """One pass through the network; texts that have ended have left."""
        chosen = self._choose_spans()
        if not chosen:
            return []
        outcomes: list[Outcome] = []
        try:
            self._compute(chosen, outcomes)
        except Exception as problem:  # whoever is at fault fails alone: the others are computed again, which changes nothing
            if len(chosen) == 1:
                outcomes.append(Outcome(chosen[0][0], finish="error", error=problem))
            else:
                for pair in chosen:
                    self._compute_alone(pair, outcomes)
        for outcome in outcomes:
            if outcome.finish is not None:
                self.leave(outcome.text)
        return outcomes

    def _compute_alone(self, pair: tuple[Text, Span], outcomes: list[Outcome]) -> None:
        try:
            self._compute([pair], outcomes)
        except Exception as problem:
            outcomes.append(Outcome(pair[0], finish="error", error=problem))

    def _choose_spans(self) -> list[tuple[Text, Span]]:
        """One token of each text that is being written, and some of the prompts that have not been read."""
        writing = [text for text in self.texts if len(text.tokens) - text.computed == 1]
        chosen = [(text, Span(text.tokens[-1:], text.computed, text.pages)) for text in writing]
        left = CHUNK_BESIDE if writing else CHUNK
        for text in self.texts:
            waiting = len(text.tokens) - text.computed
            if waiting == 1 or not left:
                continue
            count = min(waiting, left)
            left -= count
            tokens = text.tokens[text.computed : text.computed + count]
            chosen.append((text, Span(tokens, text.computed, text.pages, int(count == waiting))))
        return chosen

    def _compute(self, chosen: Sequence[tuple[Text, Span]], outcomes: list[Outcome]) -> None:
        logits = self.decoder.step([span for _, span in chosen])
        at = 0
        for text, span in chosen:
            text.computed = span.start + len(span.tokens)
            self._remember(text)
            if span.wanted:
                outcomes.append(self._advance(text, logits[at]))
                at += 1

    def _advance(self, text: Text, logits: Tensor) -> Outcome:
        """Choose the next token of a text."""
        request = text.request
        try:
            token = choose(logits, request, len(text.tokens))
        except Exception as problem:
            return Outcome(text, finish="error", error=problem)
        if token.id in request.stop:
            return Outcome(text, finish="stop")
        text.tokens.append(token.id)
        return Outcome(text, (token,), "length" if text.made == request.limit else None)

    def _remember(self, text: Text) -> None:
        """Make the pages known that are full now."""
        while (text.remembered + 1) * PAGE <= text.computed:
            start = text.remembered * PAGE
            self.pool.remember(text.pages, text.remembered, text.tokens[start : start + PAGE])
            text.remembered += 1
