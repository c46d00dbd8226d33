"""How a server talks to a generation engine: requests in, tokens out; imports no torch.

```
engine = open_engine(model)                      # serving/generation.py; model: a models.pretrained.Generator
generation = engine.submit(GenerationRequest(prompt=(1, 2, 3), limit=64, stop=frozenset({2})))
for token in generation: ...                     # blocks; raises what went wrong
generation.cancel()                              # from any thread; the slot is free at the next step
engine.close(grace=5)
```
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from luthier.core.errors import LuthierError
from luthier.models.decoding.request import GenerationRequest, Token

__all__ = [
    "EngineClosed",
    "EngineFailed",
    "EngineFull",
    "EngineNumbers",
    "Generation",
    "GenerationEngine",
    "GenerationRequest",
    "RequestRefused",
    "Token",
]

FinishReason = Literal["stop", "length", "cancelled", "error"]


class RequestRefused(LuthierError):
    """A request cannot be answered by this model, whatever else happens: it is too long, or a number is out of bounds."""


class EngineFull(LuthierError):
    """As many requests wait as may wait."""


class EngineClosed(LuthierError):
    """The engine takes no more requests."""


class EngineFailed(EngineClosed):
    """What computes has ended, or broke off an answer."""


@dataclass(frozen=True)
class EngineNumbers:
    """What an engine has done, and what it is doing.

    Args:
        slots: requests that can be in the network at once.
        active: requests that are.
        waiting: requests that wait for a slot.
        finished: requests that ended by a stop token or at their limit.
        cancelled: requests that were cancelled.
        failed: requests that ended with an error.
        tokens: that were made.
        prompt_tokens: of all prompts that were begun.
        cached_tokens: of these, those that an earlier prompt had already computed.
        cache_hits: prompts of which at least one token was already computed.
        steps: passes through the network.
        cache_bytes: memory of all keys and values, whether used or not.
    """

    slots: int
    active: int = 0
    waiting: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_hits: int = 0
    steps: int = 0
    cache_bytes: int = 0


class Generation:
    """An answer while it is being made. The engine's thread adds to it; any thread may read and cancel.

    Args:
        request: that it answers.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.cached_tokens = 0
        """Tokens of the prompt that did not have to be computed."""
        self.cancel_requested = False
        self._tokens: deque[Token] = deque()
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[], None]] = []
        self._cancelling: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether nothing more will be added."""
        return self.finish_reason is not None

    def __iter__(self) -> Iterator[Token]:
        """The tokens as they are made; waits for them.

        Raises:
            Exception: what ended this answer, if it failed.
        """
        while True:
            token = self.next()
            if token is None:
                return
            yield token

    def next(self, timeout: float | None = None) -> Token | None:
        """The next token; None where the answer has ended.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: there was none in this time.
            Exception: what ended this answer, if it failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._tokens or self.done, timeout):
                raise TimeoutError("no token yet")
            if self._tokens:
                return self._tokens.popleft()
        if self.error is not None:
            raise self.error
        return None

    def take(self) -> list[Token]:
        """All tokens that have not been taken yet; does not wait."""
        with self._changed:
            taken = list(self._tokens)
            self._tokens.clear()
        return taken

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have a function called in the engine's thread whenever something was added, and at once where something is there.

        It must return at once; of an event loop it is `lambda: loop.call_soon_threadsafe(event.set)`. One that raises is called no more, and the answer is cancelled.
        """
        with self._changed:
            self._callbacks.append(callback)
            waiting = bool(self._tokens) or self.done
        if waiting:
            callback()

    def cancel(self) -> None:
        """End it: its slot is free at the engine's next step, and a request that waits never begins."""
        with self._changed:
            self.cancel_requested = True
            cancelling, self._cancelling = self._cancelling, []
        for callback in cancelling:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """For engines: have a function called once when it is cancelled, in the thread that does so, and at once where that has been done."""
        with self._changed:
            done = self.cancel_requested
            if not done:
                self._cancelling.append(callback)
        if done:
            callback()

    def add(self, *tokens: Token) -> None:
        """For engines: more tokens. Who reads is told once for all of them, and not at all before the end of an answer that is wanted whole."""
        with self._changed:
            self._tokens.extend(tokens)
        if not self.request.whole:
            self._tell()

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        """For engines: nothing more will come."""
        with self._changed:
            if self.finish_reason is not None:
                return
            self.error, self.finish_reason = error, reason
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            try:
                callback()
            except Exception:  # whoever listened is gone, such as an event loop that was closed; nobody else shall suffer
                self.cancel()
                with self._changed:
                    self._callbacks.remove(callback)


class GenerationEngine(Protocol):
    """Answers many requests with one network, which a thread of its own owns."""

    @property
    def about(self) -> str:
        """What computes, in which precision, and why: one line for the log."""
        ...

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        ...

    @property
    def holds_grammars(self) -> bool:
        """Whether an answer can be made to follow a grammar."""
        ...

    @property
    def fault(self) -> EngineFailed | None:
        """Why it answers no more although nobody closed it; None while it does."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Refuse what can never be answered.

        Raises:
            RequestRefused: and says which field.
        """
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Take a request; returns at once.

        Raises:
            RequestRefused: it can never be answered.
            EngineFull: too many wait.
            EngineFailed: see `fault`.
            EngineClosed: the engine is closed or closing.
        """
        ...

    def numbers(self) -> EngineNumbers:
        """What has been done, and what is being done."""
        ...

    def close(self, grace: float = 0.0) -> None:
        """Take no more, let what runs or waits finish for so many seconds, cancel the rest, and end the thread."""
        ...
