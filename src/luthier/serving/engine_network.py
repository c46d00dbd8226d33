"""A generation engine in the place of the network, so that a family's own `predict` writes with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from luthier.serving.interface import EngineClosed, Generation, GenerationEngine, GenerationRequest

BETWEEN_POLLS = 0.1
"""Seconds that nobody asks whether a row's client is still there."""


class EngineNetwork:
    """Answers `generate` as transformers' networks do, as far as `models.generate` asks for it.

    Args:
        engine: that writes.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine
        self.poll: Callable[[], None] = lambda: None
        """Called while a row is written; it may raise to stop."""

    @contextlib.contextmanager
    def for_generation(self) -> Iterator[EngineNetwork]:
        """Itself: nothing has to be set."""
        yield self

    def parameters(self) -> Iterator[Tensor]:
        """Something that lies where inputs have to."""
        yield torch.empty(0)

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int, do_sample: bool, eos_token_id: int, pad_token_id: int,
        temperature: float = 1.0, top_k: int = 0,
    ) -> Tensor:  # fmt: skip
        """Prompts that are padded on the left, and what is written behind each, # (rows, length) → (rows, length + written)

        Where tokens are drawn, torch's seed at this moment decides which.

        Raises:
            RequestRefused: a prompt is too long.
            EngineFull: too many wait.
            EngineClosed: the engine ended before the answer.
            Exception: what ended an answer.
        """
        prompts = [tuple(row[seen.bool()].tolist()) for row, seen in zip(input_ids, attention_mask, strict=True)]
        drawn: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "seed": torch.initial_seed() % 2**31} if do_sample else {}
        written = [self._write(prompt, max_new_tokens, eos_token_id, drawn) for prompt in prompts]
        longest = max(len(each) for each in written)
        padded = [each + [pad_token_id] * (longest - len(each)) for each in written]
        return torch.cat([input_ids, torch.tensor(padded, dtype=input_ids.dtype).view(len(padded), longest)], 1)

    def _write(self, prompt: tuple[int, ...], limit: int, end: int, drawn: dict[str, Any]) -> list[int]:
        room = max(1, min(limit, self._engine.context - len(prompt)))
        generation = self._engine.submit(GenerationRequest(prompt, room, stop=frozenset({end}), whole=True, **drawn))
        try:
            written = list(self._tokens(generation))
        except BaseException:
            generation.cancel()
            raise
        if generation.finish_reason == "cancelled":
            raise EngineClosed("the engine is closing", "ask the server that takes its place")
        return written

    def _tokens(self, generation: Generation) -> Iterator[int]:
        while True:
            self.poll()
            try:
                token = generation.next(BETWEEN_POLLS)
            except TimeoutError:
                continue
            if token is None:
                return
            yield token.id
