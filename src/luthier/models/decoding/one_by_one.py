"""Decoders that our own step does not know: a forward pass with a cache that somebody else computes, one text at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.models.decoding.continuous_batching import Outcome, Text
from luthier.models.decoding.request import GenerationRequest

Forward = Callable[[Sequence[int], Any], tuple[Tensor, Any]]
"""New tokens of a text, and what was kept of those before them (None of none) → the scores behind the last, # (vocabulary,) fp32, and what is kept."""


class OneByOne:
    """Texts of a network, one behind the other; takes the place of a `ContinuousBatch`.

    Args:
        forward: of the network.
    """

    slots = 1

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.texts: list[Text] = []
        self._cache: Any = None

    def join(self, request: GenerationRequest) -> Text | None:
        """Take a request in; None where another is being answered."""
        if self.texts:
            return None
        self._cache = None
        self.texts = [Text(request, [], 0)]
        return self.texts[0]

    def leave(self, text: Text) -> None:
        """Take a text out."""
        self.texts.remove(text)
        self._cache = None

    @torch.inference_mode()
    def step(self) -> list[Outcome]:
        """One pass; a prompt goes through it whole."""
        if not self.texts:
            return []
        text = self.texts[0]
        try:
            scores, self._cache = self._forward(text.tokens[text.computed :], self._cache)
            text.computed = len(text.tokens)
            token = text.choose_next(scores)
        except Exception as problem:
            outcome = Outcome(text, finish="error", error=problem)
        else:
            if token.id in text.request.stop:
                outcome = Outcome(text, finish="stop")
            else:
                text.tokens.append(token.id)
                outcome = Outcome(text, (token,), text.finish)
        if outcome.finish is not None:
            self.leave(text)
        return [outcome]


def forward_of(network: Any) -> Forward:
    """Transformers' own forward pass.

    Args:
        network: as `generate` wants it.
    """

    def forward(tokens: Sequence[int], cache: Any) -> tuple[Tensor, Any]:
        ids = torch.tensor([list(tokens)], device=next(network.parameters()).device)
        output = network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float().cpu(), output.past_key_values

    return forward
