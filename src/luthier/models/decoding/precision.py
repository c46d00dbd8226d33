"""How far a decoder in a lesser precision is from the exact one: the record that goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.models.decoding.pages import PAGE
from luthier.models.decoding.step import Span


class Reads(Protocol):
    """What gives the logits of texts' tokens: any decoder."""

    def step(self, spans: Sequence[Span]) -> Tensor:
        """The logits of the tokens, # (tokens, vocabulary)"""
        ...


class ForwardPass:
    """A network of transformers in the precision that it has, for texts that are read as a whole.

    Args:
        network: a causal language model.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def step(self, spans: Sequence[Span]) -> Tensor:
        """The logits of every token, # (tokens, vocabulary)"""
        with torch.inference_mode():
            return torch.cat([self._network(input_ids=torch.tensor([list(span.tokens)])).logits[0].float() for span in spans])


@dataclass(frozen=True)
class PrecisionParity:
    """Two decoders on the same texts.

    Args:
        tokens: compared: every token but the first of each text.
        largest: difference of a token's log-probability.
        mean: of the differences' sizes.
        equal_greedy: share of places where both would write the same token.
        perplexity: of the texts under the exact decoder.
        reduced_perplexity: under the other.
    """

    tokens: int
    largest: float
    mean: float
    equal_greedy: float
    perplexity: float
    reduced_perplexity: float

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens: log-probabilities differ by {self.mean:.4f} on average and {self.largest:.3f} at most, "
            f"{self.equal_greedy:.1%} of greedy tokens are equal, perplexity {self.perplexity:.3f} → {self.reduced_perplexity:.3f}"
        )


def compare_decoders(exact: Reads, reduced: Reads, texts: Sequence[Sequence[int]]) -> PrecisionParity:
    """Let two decoders read the same texts.

    Args:
        exact: whose numbers count.
        reduced: the other.
        texts: token ids, two at least; each must fit into the decoders' memory, whose first pages are written over.

    Returns:
        how far they are apart.
    """
    differences, equal, losses, reduced_losses = [], 0, [], []
    for text in texts:
        pages = list(range(-(-len(text) // PAGE)))
        span = Span(text, 0, pages, len(text))
        one, other = (decoder.step([span])[:-1].log_softmax(-1) for decoder in (exact, reduced))
        target = torch.tensor(text[1:])[:, None]
        loss, reduced_loss = -one.gather(1, target)[:, 0], -other.gather(1, target)[:, 0]
        differences.append((loss - reduced_loss).abs())
        losses.append(loss)
        reduced_losses.append(reduced_loss)
        equal += int((one.argmax(-1) == other.argmax(-1)).sum())
    apart = torch.cat(differences)
    return PrecisionParity(
        len(apart), float(apart.max()), float(apart.mean()), equal / len(apart),
        math.exp(float(torch.cat(losses).mean())), math.exp(float(torch.cat(reduced_losses).mean())),
    )  # fmt: skip
