"""What is asked of a decoder, and what it answers with; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.models.decoding.grammar import Grammar


PRECISIONS = ("auto", "fp32", "int8")
"""In which weights are held; auto gives the tokens of fp32."""


@dataclass(frozen=True)
class GenerationRequest:
    """One text to be continued.

    Args:
        prompt: token ids up to where the answer begins, at least one.
        limit: tokens that the answer may have, at least one.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: tokens are drawn from the likeliest whose probabilities add up to this, in (0, 1].
        top_k: tokens are drawn from this many of the likeliest; 0 means all.
        seed: with the position it decides what is drawn: the same request gives the same tokens, alone or beside others.
        stop: token ids that end the answer; they are not part of it.
        logprobs: how many of the likeliest tokens are told beside each token; of 0, an engine that is another program need not tell the token's own log-probability.
        grammar: that the answer must follow; None lets it be any text.
        whole: whether nobody reads a token before the last is there; an engine that is another program may then be asked once an answer, not once a token.
    """

    prompt: tuple[int, ...]
    limit: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: frozenset[int] = frozenset()
    logprobs: int = 0
    grammar: Grammar | None = None
    whole: bool = False


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Args:
        id: its number.
        logprob: its log-probability under the model itself: before temperature, top_p and top_k.
        top: the likeliest tokens and their log-probabilities, likeliest first; as many as were asked for.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
