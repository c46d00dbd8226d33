"""The generation engine: a thread of its own owns the network and answers many requests with it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from luthier.core.errors import ModelError, nearest
from luthier.models.decoding.choice import choose_decoder, write_texts
from luthier.models.decoding.continuous_batching import Batch, ContinuousBatch, Outcome, Text, refuse_reason
from luthier.models.decoding.network import NotKnown, read_network
from luthier.models.decoding.one_by_one import OneByOne, forward_of
from luthier.models.decoding.pages import PAGE, PagePool
from luthier.models.decoding.precision import ForwardPass, PrecisionParity, compare_decoders
from luthier.models.decoding.request import PRECISIONS, GenerationRequest
from luthier.models.decoding.step import make_cache, page_bytes
from luthier.models.pretrained import Generator
from luthier.serving.interface import EngineClosed, EngineFailed, EngineFull, EngineNumbers, Generation, RequestRefused

SLOTS = 8
"""Requests that are answered at once."""
WAITING = 64
"""Requests that may wait for a slot."""
CACHE_MIB = 512
"""Memory for keys and values."""


def open_engine(
    model: Generator,
    slots: int = SLOTS,
    context: int = 0,
    cache_mib: int = CACHE_MIB,
    precision: str = "auto",
    waiting: int = WAITING,
    rows: Sequence[Sequence[int]] = (),
) -> Engine:
    """Put a language model behind an engine.

    Args:
        model: as loaded; it must not be trained or used by others while the engine is open.
        slots: requests that are answered at once.
        context: tokens that a prompt and its answer may have together; 0 takes what the model and the memory allow.
        cache_mib: memory for keys and values, in MiB.
        precision: of the weights: fp32, int8, or auto: the tokens of fp32, drafted in int8 where that was measured to be faster.
        waiting: requests that may wait for a slot.
        rows: token ids of texts on which int8 is compared with fp32 (`Engine.parity`); without them the network writes some itself.

    Raises:
        ModelError: a number makes no sense, the memory does not hold a single page, or there is no compiler for int8.
    """
    if slots < 1 or waiting < 0 or context < 0 or cache_mib < 1:
        raise ModelError("slots and cache_mib are at least 1, waiting and context at least 0", "leave them out")
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r}: {nearest(precision, PRECISIONS)}", "use one of these")
    model.eval()
    network: Any = model.network
    network.set_attn_implementation("sdpa")
    try:
        known = read_network(network)
    except NotKnown as why:
        if precision == "int8":
            raise ModelError(f"this network has no int8: {why}", "use precision fp32") from None
        positions = int(getattr(network.config, "max_position_embeddings", 0) or 2048)
        about = f"transformers' own forward pass, one request at a time: {why}"
        return Engine(OneByOne(forward_of(network)), about, min(context or positions, positions), network.config.vocab_size, waiting, 1, 0)
    pages = cache_mib * 2**20 // page_bytes(known)
    if pages < 1:
        enough = page_bytes(known) // 2**20 + 1
        raise ModelError(f"{cache_mib} MiB do not hold {PAGE} tokens of keys and values", f"give at least {enough} MiB")
    context = min(context or known.positions, known.positions, pages * PAGE)
    chosen = choose_decoder(known, make_cache(known, pages, context), precision, rows)
    parity, rounded = chosen.parity, ""
    if network.dtype != torch.float32:
        texts = [row[:context] for row in rows if len(row) > 1] or write_texts(chosen.decoder)
        apart = compare_decoders(ForwardPass(network), chosen.decoder, texts)
        parity = parity or apart
        read = "rounded to int8" if precision == "int8" else "computed in fp32"
        rounded = f"; the weights of {str(network.dtype).removeprefix('torch.')}, {read} ({apart})"
    about = f"{known.name}: {chosen.why}{rounded}; {slots} slots, {pages * PAGE} tokens of keys and values in {cache_mib} MiB"
    batch = ContinuousBatch(chosen.decoder, PagePool(pages), slots, chosen.drafter)
    engine = Engine(batch, about, context, known.vocabulary, waiting, slots, pages * page_bytes(known))
    engine.parity = parity
    return engine


class Engine:
    """Answers many requests with one network; see `serving.interface.GenerationEngine`.

    Args:
        batch: of texts, with the network.
        about: what computes, in which precision, and why.
        context: tokens that a prompt and its answer may have together.
        vocabulary: token ids are below this.
        waiting: requests that may wait for a slot.
        slots: requests at once.
        cache_bytes: of all keys and values.
    """

    holds_grammars = True

    def __init__(self, batch: Batch, about: str, context: int, vocabulary: int, waiting: int, slots: int, cache_bytes: int) -> None:
        self.about, self.context, self.vocabulary = about, context, vocabulary
        self._batch, self._most_waiting, self._slots, self._cache_bytes = batch, waiting, slots, cache_bytes
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, tuple[Text, Generation]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self.fault: EngineFailed | None = None
        """Why it answers no more although nobody closed it; None while it does."""
        self.parity: PrecisionParity | None = None
        """How near what is written is to the exact decoder, of int8, or to the bundle's own forward pass, of weights in 16 bits; None where it is the same."""
        self._counts: dict[str, int] = dict.fromkeys(
            ("finished", "cancelled", "failed", "tokens", "prompt_tokens", "cached_tokens", "cache_hits", "steps"), 0
        )
        self._thread = threading.Thread(target=self._work, name="luthier-generation", daemon=True)
        self._thread.start()

    def check(self, request: GenerationRequest) -> None:
        """Refuse what can never be answered.

        Raises:
            RequestRefused: and says which field.
        """
        reason = refuse_reason(request, self.vocabulary, self.context)
        if reason:
            raise RequestRefused(reason, "change this field")

    def submit(self, request: GenerationRequest) -> Generation:
        """Take a request; returns at once.

        Raises:
            RequestRefused: it can never be answered.
            EngineFull: too many wait.
            EngineFailed: see `fault`.
            EngineClosed: the engine is closed or closing.
        """
        self.check(request)
        generation = Generation(request)
        with self._changed:
            if self.fault is not None:
                raise self.fault
            if self._closing:
                raise EngineClosed("the engine is closing", "ask the server that takes its place")
            if len(self._waiting) >= self._most_waiting + max(0, self._slots - len(self._running)):
                raise EngineFull(f"{len(self._waiting)} requests wait already", "try again in a moment")
            self._waiting.append(generation)
            self._changed.notify()
        return generation

    def numbers(self) -> EngineNumbers:
        """What has been done, and what is being done."""
        with self._changed:
            return EngineNumbers(self._slots, len(self._running), len(self._waiting), cache_bytes=self._cache_bytes, **self._counts)

    def close(self, grace: float = 0.0) -> None:
        """Take no more, let what runs or waits finish, cancel the rest, and end the thread.

        Args:
            grace: seconds.
        """
        until = time.monotonic() + grace
        with self._changed:
            self._closing = True
            self._changed.notify()
            self._changed.wait_for(lambda: not (self._waiting or self._running), max(0.0, until - time.monotonic()))
            for generation in [*self._waiting, *(generation for _, generation in self._running.values())]:
                generation.cancel()
        self._thread.join()

    def _work(self) -> None:
        """The thread; a fault of the engine itself ends it, and every request with it: nobody waits for ever."""
        try:
            self._answer_all()
        except Exception as problem:
            with self._changed:
                self._closing = True
                self.fault = EngineFailed(f"the engine ended: {type(problem).__name__}: {problem}", "start the server again")
                left = [*self._waiting, *(generation for _, generation in self._running.values())]
                self._waiting.clear()
                self._running.clear()
                self._counts["failed"] += len(left)
                for generation in left:
                    generation.finish("error", problem)
                self._changed.notify_all()

    def _answer_all(self) -> None:
        """Take requests in, step, hand tokens out, until the engine closes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closing)
                if not self._waiting and not self._running:
                    self._changed.notify_all()
                    return
                self._let_go()
                self._take_in()
            outcomes = self._step() if self._running else []
            with self._changed:
                self._counts["steps"] += bool(outcomes)
                self._hand_out(outcomes)
                if not self._waiting and not self._running:
                    self._changed.notify_all()

    def _step(self) -> list[Outcome]:
        """One pass; a fault of the batch itself ends every request in it, and the thread goes on."""
        try:
            return self._batch.step()
        except Exception as problem:
            texts = [text for text, _ in self._running.values()]
            for text in texts:
                self._batch.leave(text)
            return [Outcome(text, finish="error", error=problem) for text in texts]

    def _let_go(self) -> None:
        """Take out what was cancelled."""
        for text, generation in [pair for pair in self._running.values() if pair[1].cancel_requested]:
            self._batch.leave(text)
            self._end(text, generation, "cancelled")
        for generation in [each for each in self._waiting if each.cancel_requested]:
            self._waiting.remove(generation)
            self._counts["cancelled"] += 1
            generation.finish("cancelled")

    def _take_in(self) -> None:
        """Let those that wait join, in order, while there is room."""
        while self._waiting:
            generation = self._waiting[0]
            try:
                text = self._batch.join(generation.request)
            except Exception as problem:
                self._waiting.popleft()
                self._counts["failed"] += 1
                generation.finish("error", problem)
                continue
            if text is None:
                return
            self._waiting.popleft()
            self._running[id(text)] = (text, generation)
            generation.cached_tokens = text.cached
            self._counts["prompt_tokens"] += len(generation.request.prompt)
            self._counts["cached_tokens"] += text.cached
            self._counts["cache_hits"] += bool(text.cached)

    def _hand_out(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            _, generation = self._running[id(outcome.text)]
            for token in outcome.tokens:
                self._counts["tokens"] += 1
                generation.add(token)
            if outcome.finish is not None:
                self._end(outcome.text, generation, outcome.finish, outcome.error)

    def _end(self, text: Text, generation: Generation, reason: Any, error: Exception | None = None) -> None:
        del self._running[id(text)]
        self._counts[{"cancelled": "cancelled", "error": "failed"}.get(reason, "finished")] += 1
        generation.finish(reason, error)
