"""Text by llama.cpp: a llama-server of our own batches the answers, and is given our tokens and gives tokens back."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from luthier.models.decoding.continuous_batching import refuse_reason
from luthier.models.llama_process import NO_CHAT_PARSER, LlamaProcess
from luthier.serving.interface import (
    EngineClosed,
    EngineFailed,
    EngineFull,
    EngineNumbers,
    FinishReason,
    Generation,
    GenerationRequest,
    RequestRefused,
    Token,
)

UNTOLD = float("-inf")
"""The log-probability of a token of which llama.cpp tells none."""
MOST_SEED = 2**32 - 1
"""llama.cpp takes this one as a wish for any."""
LONE = b"\x80"
"""A byte that is no character by itself."""
MOST_PARTS = 32
"""Tokens that are looked for in the bytes of one piece: a character has four at most, and what is longer is torn."""
Start = Callable[[Callable[[str], None]], LlamaProcess]
"""Given what is told why the program has ended → the program, started."""


class LlamaEngine:
    """Answers many requests by a llama-server; see `serving.interface.GenerationEngine`.

    Args:
        start: of the program.
        about: what computes, for a person.
        context: tokens that a prompt and its answer may have together.
        total: tokens that all requests may have together, as the program was told.
        vocabulary: token ids are below this.
        slots: requests that are answered at once, as the program was told.
        waiting: requests that may wait.
        bytes_of: a token → its bytes.
        say: told where the program ends by itself.

    Raises:
        ModelError: it does not start, or cannot read its file.
    """

    holds_grammars = False

    def __init__(
        self, start: Start, about: str, *, context: int, total: int, vocabulary: int, slots: int, waiting: int, bytes_of: Callable[[int], bytes],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.about, self.context, self.vocabulary = about, context, vocabulary
        self.fault: EngineFailed | None = None
        self._total, self._slots, self._most_waiting, self._bytes_of, self._say = total, slots, waiting, bytes_of, say
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, socket.socket | None] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._counts: dict[str, int] = dict.fromkeys(
            ("finished", "cancelled", "failed", "tokens", "prompt_tokens", "cached_tokens", "cache_hits"), 0
        )
        self._fields = NO_CHAT_PARSER
        self._ready = False
        self.process = start(self._fail)
        try:
            self.process.wait_until_ready()
        except BaseException:
            self.process.close()
            raise
        self._ready = True
        names = [f"luthier-llama-{number}" for number in range(slots)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def check(self, request: GenerationRequest) -> None:
        """Refuse what can never be answered.

        Raises:
            RequestRefused: and says which field.
        """
        reason = refuse_reason(request, self.vocabulary, self.context)
        if reason:
            raise RequestRefused(reason, "change this field")
        if request.grammar is not None:
            raise RequestRefused("response_format is not held by the engine llama.cpp", "leave it out, or serve with --engine torch")

    def submit(self, request: GenerationRequest) -> Generation:
        """Take a request; returns at once.

        Raises:
            RequestRefused: it can never be answered.
            EngineFull: too many wait.
            EngineFailed: the program has ended.
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
            self._changed.notify_all()
        generation.on_cancel(lambda: self._let_go(generation))
        return generation

    def numbers(self) -> EngineNumbers:
        """What has been done, and what is being done; of passes and of memory the program tells nothing."""
        with self._changed:
            return EngineNumbers(self._slots, len(self._running), len(self._waiting), **self._counts)

    def close(self, grace: float = 0.0) -> None:
        """Take no more, let what runs or waits finish, cancel the rest, and end the program.

        Args:
            grace: seconds.
        """
        until = time.monotonic() + grace
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._running), max(0.0, until - time.monotonic()))
            left = [*self._waiting, *self._running]
        for generation in left:
            generation.cancel()
        for thread in self._threads:
            thread.join()
        self.process.close()

    def _fail(self, why: str) -> None:
        """The program has ended by itself: everybody is told, and nobody waits for ever."""
        if not self._ready:
            return  # whoever starts it is told
        self._say(f"{why}; requests are answered 503 from now on")
        with self._changed:
            self.fault = EngineFailed(why, "start the server again")
            left = list(self._waiting)
            self._waiting.clear()
            self._counts["failed"] += len(left)
            self._changed.notify_all()
        for generation in left:
            generation.finish("error", self.fault)

    def _let_go(self, generation: Generation) -> None:
        """One is cancelled: what is read of it ends, and so the program frees its slot; one that waits never begins."""
        with self._changed:
            waits = generation in self._waiting
            if waits:
                self._waiting.remove(generation)
                self._counts["cancelled"] += 1
                self._changed.notify_all()
            opened = self._running.get(generation)
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
        if waits:
            generation.finish("cancelled")

    def _work(self) -> None:
        """A thread: one answer behind the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_begin() or (self._closing and not self._waiting))
                if not self._waiting:
                    return
                generation = self._waiting.popleft()
                self._running[generation] = None
            reason, error = self._answer(generation)
            with self._changed:
                del self._running[generation]
                self._counts[{"cancelled": "cancelled", "error": "failed"}.get(reason, "finished")] += 1
                self._changed.notify_all()
            generation.finish(reason, error)

    def _may_begin(self) -> bool:
        """Whether the first that waits has room beside those that run."""
        needs = [len(each.request.prompt) + each.request.limit for each in (*self._running, *list(self._waiting)[:1])]
        return bool(self._waiting) and sum(needs) <= self._total

    def _answer(self, generation: Generation) -> tuple[FinishReason, Exception | None]:
        """Have one request answered; why it ended, and what went wrong."""
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port)
        try:
            with contextlib.closing(connection):
                connection.connect()
                with self._changed:
                    self._running[generation] = connection.sock
                if generation.cancel_requested:
                    return "cancelled", None
                return self._read(generation, self._events(connection, body_of(generation.request))), None
        except (OSError, http.client.HTTPException, ValueError, KeyError) as problem:
            if generation.cancel_requested:
                return "cancelled", None
            self.process.wait_for_end(1.0)  # which is known a moment later than that it says no more
            return "error", self.fault or EngineFailed(f"llama.cpp broke off an answer: {problem}", "ask again")
        except EngineFailed as problem:
            return "error", problem

    def _events(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the program says of a request, piece by piece.

        Raises:
            EngineFailed: it refuses it.
        """
        answer = self._send(connection, {**body, **self._fields})
        if answer.status == 400 and self._fields:  # a version that knows another form of this field writes without it
            answer.read()
            self._fields = {}
            answer = self._send(connection, body)
        if answer.status != 200:
            raise EngineFailed(f"llama.cpp answers {answer.status}: {answer.read(300).decode(errors='replace')}", "ask again")
        if not body["stream"]:
            yield json.loads(answer.read())
            return
        held = b""
        while arrived := answer.read1():  # a chunk is an event
            *lines, held = (held + arrived).split(b"\n")
            for line in lines:
                kind, _, content = line.partition(b": ")
                if kind == b"error":
                    raise EngineFailed(f"llama.cpp broke off an answer: {content[:300].decode(errors='replace')}", "ask again")
                if kind == b"data":
                    yield json.loads(content)

    def _send(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Ask for an answer."""
        headers = {"Authorization": f"Bearer {self.process.key}", "Content-Type": "application/json"}
        connection.request("POST", "/completion", json.dumps(body), headers)
        return connection.getresponse()

    def _read(self, generation: Generation, events: Iterator[dict[str, Any]]) -> FinishReason:
        """Hand on what is said, up to its end.

        Raises:
            EngineFailed: it breaks off.
        """
        request, made, ended = generation.request, 0, False
        for event in events:
            if generation.cancel_requested:
                return "cancelled"
            if "error" in event:
                raise EngineFailed(f"llama.cpp broke off an answer: {event['error'].get('message')}", "ask again")
            if event["stop"]:
                self._note(generation, event)
            if told_at_once(request):
                return self._take_whole(generation, event)
            if ended:  # where that was the program's own end too, this event was its last
                return "stop"
            last = not event["stop"] or (
                event["stop_type"] == "eos" and event["tokens_predicted"] > made
            )  # told or not, it is no missing one
            tokens = self._tokens(event, int(event["tokens_predicted"]) - made - last, request.logprobs)
            made += len(tokens)
            kept = [token for token in tokens if token.id not in request.stop]
            ended = len(kept) < len(tokens)
            with self._changed:
                self._counts["tokens"] += len(kept)
            generation.add(*kept)
            if event["stop"]:
                return "length" if event["stop_type"] == "limit" else "stop"
        raise ValueError("no end was told")

    def _take_whole(self, generation: Generation, event: dict[str, Any]) -> FinishReason:
        """Hand on an answer that came in one piece: all of its tokens, those that are parts of a character too."""
        stop, told = generation.request.stop, [int(each) for each in event["tokens"]]
        length = next((place for place, token in enumerate(told) if token in stop), len(told))
        with self._changed:
            self._counts["tokens"] += length
        generation.add(*(Token(token, UNTOLD) for token in told[:length]))
        return "length" if event["stop_type"] == "limit" and length == len(told) else "stop"

    def _note(self, generation: Generation, event: dict[str, Any]) -> None:
        """Count what the end tells of the prompt."""
        cached = int((event.get("timings") or {}).get("cache_n") or 0)
        generation.cached_tokens = cached
        with self._changed:
            self._counts["prompt_tokens"] += len(generation.request.prompt)
            self._counts["cached_tokens"] += cached
            self._counts["cache_hits"] += bool(cached)

    def _tokens(self, event: dict[str, Any], missing: int, top: int) -> list[Token]:
        """The tokens of a piece. Those that are parts of a character llama.cpp tells as one, with the number of the last: the others are found by their bytes."""
        if event["stop"]:
            return self._unknown(missing)
        (last,) = event["tokens"]
        (told,) = event.get("completion_probabilities") or ({},)
        likeliest = tuple((int(each["id"]), float(each["logprob"])) for each in told.get("top_logprobs", ())[:top])
        token = Token(int(last), float(told.get("logprob", UNTOLD)), likeliest)
        if missing <= 0:
            return [token]
        whole, own = str(event["content"]).encode(), self._bytes_of(token.id)
        parts = self._split(whole[: len(whole) - len(own)], missing) if own and whole.endswith(own) else []
        return ([Token(each, UNTOLD) for each in parts] or self._unknown(missing)) + [token]

    def _split(self, content: bytes, count: int) -> list[int]:
        """So many tokens with these bytes together, the first as long as may be; empty where there are none, or too many to look for."""
        hopeless: set[tuple[int, int]] = set()  # without them the time doubles with each byte

        def parts(start: int, left: int) -> list[int] | None:
            if left == 0:
                return [] if start == len(content) else None
            if (start, left) in hopeless:
                return None
            for end in range(len(content) - left + 1, start, -1):
                token = self._by_bytes.get(content[start:end])
                rest = None if token is None else parts(end, left - 1)
                if token is not None and rest is not None:
                    return [token, *rest]
            hopeless.add((start, left))
            return None

        return (parts(0, count) or []) if 0 < count <= MOST_PARTS else []

    def _unknown(self, count: int) -> list[Token]:
        """So many tokens of which only the number is known; none where the vocabulary has no bytes."""
        lone = self._by_bytes.get(LONE)
        return [] if lone is None else [Token(lone, UNTOLD)] * count

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        """The vocabulary by its bytes."""
        return {self._bytes_of(token): token for token in range(self.vocabulary - 1, -1, -1)}


def told_at_once(request: GenerationRequest) -> bool:
    """Whether an answer is asked for in one piece: where nobody reads its tokens sooner, or asks for log-probabilities, of which llama.cpp then tells fewer than tokens.

    Args:
        request: to be answered.
    """
    return request.whole and request.logprobs == 0


def body_of(request: GenerationRequest) -> dict[str, Any]:
    """A request as llama-server reads it: our sampling alone, in our order.

    Args:
        request: to be answered.
    """
    drawn = {
        "samplers": ["temperature", "top_k", "top_p"],
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "seed": request.seed % MOST_SEED,
    }
    likeliest = {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0}
    return {
        **(drawn if request.temperature > 0 else likeliest),
        "prompt": list(request.prompt),
        "n_predict": request.limit,
        "n_probs": request.logprobs,  # where nobody asks, the program need not look at all of its vocabulary again
        "stream": not told_at_once(request),
        "return_tokens": True,
        "cache_prompt": True,
        "response_fields": ["stop", "stop_type", "tokens_predicted", "timings", *(["tokens"] if told_at_once(request) else [])],
    }
