"""Decoders that our own step does not know: transformers' forward pass with its cache, one text at a time."""

from __future__ import annotations

from typing import Any

import torch

from luthier.models.decoding.continuous_batching import Outcome, Text
from luthier.models.decoding.request import GenerationRequest


class OneByOne:
    """Texts of a network, one behind the other; takes the place of a `ContinuousBatch`.

    Args:
        network: of transformers, as `generate` wants it.
    """

    slots = 1

    def __init__(self, network: Any) -> None:
        self.network = network
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
            ids = torch.tensor([text.tokens[text.computed :]], device=next(self.network.parameters()).device)
            output = self.network(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache, text.computed = output.past_key_values, len(text.tokens)
            token = text.choose_next(output.logits[0, -1].float().cpu())
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
