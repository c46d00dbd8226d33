"""Continuous batching: requests join and leave between steps, and one pass through the network serves all that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from luthier.models.decoding.grammar import GrammarState
from luthier.models.decoding.pages import PAGE, PagePool
from luthier.models.decoding.request import GenerationRequest, Token
from luthier.models.decoding.sampling import choose, choose_id
from luthier.models.decoding.step import Decoder, Span

CHUNK = 128
"""Tokens of prompts in one step where nobody waits for a next token."""
CHUNK_BESIDE = 64
"""Tokens of prompts in one step beside texts that are being written: so long they wait longer for their next token."""
DRAFTED_TEXTS = 2
"""Texts for which tokens are drafted: with more of them a pass has rows enough to be worth the weights that it reads."""
LONGEST_DRAFT = 6
"""Tokens that are drafted at most."""


@dataclass
class Text:
    """A request that is in the network.

    Args:
        request: what was asked.
        pages: where its keys and values lie.
        cached: tokens of the prompt that were computed for an earlier one.
        tokens: of the prompt and the answer so far.
        computed: of them, those whose keys and values are there.
        remembered: pages of it that others can find.
        draft: tokens that are drafted next time.
        grammar: where the answer stands in the grammar that it must follow; None where it may be any text.
    """

    request: GenerationRequest
    pages: list[int]
    cached: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    remembered: int = 0
    draft: int = 4
    grammar: GrammarState | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.computed = self.cached
        self.remembered = self.cached // PAGE
        self.grammar = self.request.grammar.begin() if self.request.grammar is not None else None

    @property
    def made(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)

    def choose_next(self, logits: Tensor) -> Token:
        """The next token, which is not added yet.

        Args:
            logits: # (vocabulary,) fp32

        Raises:
            ModelError: the logits are not numbers, or the grammar cannot be followed.
        """
        token = choose(logits, self.request, len(self.tokens), None if self.grammar is None else self.grammar.allowed_tokens())
        if self.grammar is not None and token.id not in self.request.stop:
            self.grammar.accept(token.id)
        return token

    @property
    def finish(self) -> Literal["stop", "length"] | None:
        """Why the answer ends with its last token; None where it goes on."""
        if self.grammar is not None and self.grammar.complete:
            return "stop"
        return "length" if self.made == self.request.limit else None


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
        drafter: the same network in a lesser precision, on the same keys and values. It guesses some tokens one by one, and the decoder computes all of them in one pass:
            what it would have chosen itself stands, so the answer is the decoder's own, token for token (Leviathan et al. 2023).
    """

    def __init__(self, decoder: Decoder, pool: PagePool, slots: int, drafter: Decoder | None = None) -> None:
        self.decoder, self.pool, self.slots, self.drafter = decoder, pool, slots, drafter
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
        if not self.texts:
            return []
        chosen = self._draft_spans() if self.drafter is not None and self._may_draft() else self._choose_spans()
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

    def _may_draft(self) -> bool:
        """Whether only few texts are being written, and no prompt waits."""
        return len(self.texts) <= DRAFTED_TEXTS and all(len(text.tokens) - text.computed == 1 for text in self.texts)

    def _draft_spans(self) -> list[tuple[Text, Span]]:
        """The last token of each text, and behind it what the drafter would say."""
        assert self.drafter is not None
        lengths = [min(text.draft, text.request.limit - text.made - 1) if text.grammar is None else 0 for text in self.texts]
        guessed: list[list[int]] = [[] for _ in self.texts]
        for round_ in range(max(lengths)):
            drafting = [number for number, length in enumerate(lengths) if length > round_]
            if not drafting:
                break
            spans = []
            for number in drafting:
                text = self.texts[number]
                spans.append(Span([*text.tokens[-1:], *guessed[number]][-1:], text.computed + round_, text.pages))
            for number, logits in zip(drafting, self.drafter.step(spans)):
                text = self.texts[number]
                guess = choose_id(logits, text.request, len(text.tokens) + round_)
                guessed[number].append(guess)
                if guess in text.request.stop:
                    lengths[number] = round_ + 1
        return [
            (text, Span([text.tokens[-1], *guesses], text.computed, text.pages, len(guesses) + 1))
            for text, guesses in zip(self.texts, guessed)
        ]

    def _compute(self, chosen: Sequence[tuple[Text, Span]], outcomes: list[Outcome]) -> None:
        logits = self.decoder.step([span for _, span in chosen])
        at = 0
        for text, span in chosen:
            if not span.wanted:
                text.computed = span.start + len(span.tokens)
            else:
                outcomes.append(self._advance(text, span, logits[at : at + span.wanted]))
                at += span.wanted
            self._remember(text)

    def _advance(self, text: Text, span: Span, logits: Tensor) -> Outcome:
        """Choose the next token of a text, and those behind it as long as they were guessed.

        Args:
            text: that goes on.
            span: that was computed; what stands behind its first wanted token is guessed.
            logits: # (wanted, vocabulary)
        """
        request, made = text.request, []
        first = len(span.tokens) - span.wanted
        for number, row in enumerate(logits):
            text.computed = span.start + first + number + 1
            try:
                token = text.choose_next(row)
            except Exception as problem:
                return Outcome(text, tuple(made), "error", problem)
            if token.id in request.stop:
                return Outcome(text, tuple(made), "stop")
            text.tokens.append(token.id)
            made.append(token)
            if text.finish is not None:
                return Outcome(text, tuple(made), text.finish)
            if number + 1 < len(logits) and token.id != span.tokens[first + number + 1]:
                break
        if span.wanted > 1:
            text.draft = min(text.draft + 1, LONGEST_DRAFT) if len(made) == span.wanted else max(len(made), 1)
        return Outcome(text, tuple(made))

    def _remember(self, text: Text) -> None:
        """Make the pages known that are full now."""
        while (text.remembered + 1) * PAGE <= text.computed:
            start = text.remembered * PAGE
            self.pool.remember(text.pages, text.remembered, text.tokens[start : start + PAGE])
            text.remembered += 1
