"""Which token comes next: the likeliest, or one drawn by a number that depends on nothing but the seed and the position."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.randomness import mix
from luthier.models.decoding.request import GenerationRequest, Token

FIRST = 512
"""Of the likeliest tokens, as many are put in order first; where top_p needs more, all are."""


def choose(logits: Tensor, request: GenerationRequest, position: int, allowed: Tensor | None = None) -> Token:
    """The next token of one text.

    Args:
        logits: # (vocabulary,) fp32
        request: how to choose.
        position: of the new token in its text.
        allowed: ids of the tokens that it may be; None allows all, # (allowed,) int64

    Returns:
        the token, with its log-probability under the model itself.

    Raises:
        ModelError: the logits are not numbers.
    """
    total = float(logits.logsumexp(0))
    if not total < float("inf"):
        raise ModelError("the network's logits are not finite", "train again with a smaller learning rate, or use another checkpoint")
    if allowed is None:
        number = choose_id(logits, request, position)
    else:
        number = int(allowed[choose_id(logits[allowed], request, position)])
    top: tuple[tuple[int, float], ...] = ()
    if request.logprobs:
        values, ids = logits.topk(min(request.logprobs, len(logits)))
        top = tuple((int(i), float(v) - total) for v, i in zip(values, ids))
    return Token(number, float(logits[number]) - total, top)


def choose_id(logits: Tensor, request: GenerationRequest, position: int) -> int:
    """The id of the next token alone, # logits: (vocabulary,)"""
    if request.temperature == 0:
        return int(logits.argmax())
    place = float(mix("sampling", request.seed, position)) / 2.0**64
    return _draw(logits / request.temperature, request.top_k, request.top_p, place)


def _draw(scores: Tensor, top_k: int, top_p: float, place: float) -> int:
    """The token at a place of the cumulated probabilities of those that may be drawn.

    Args:
        scores: logits by temperature, # (vocabulary,)
        top_k: only so many of the likeliest; 0 means all.
        top_p: only the likeliest whose probabilities add up to this.
        place: in [0, 1).
    """
    if not top_k and top_p >= 1:
        shares = scores.double().softmax(0).cumsum(0)
        return min(int(torch.searchsorted(shares, place * float(shares[-1]), right=True)), len(scores) - 1)
    total = scores.double().logsumexp(0)
    size = min(top_k or FIRST, len(scores))
    while True:
        values, ids = scores.topk(size)
        shares = (values.double() - total).exp()
        if top_k:
            shares = shares / shares.sum()
        before = shares.cumsum(0) - shares
        kept = int((before < top_p).sum())
        if kept < size or top_k or size == len(scores):
            break
        size = len(scores)
    cumulated = shares[: max(kept, 1)].cumsum(0)
    return int(ids[min(int(torch.searchsorted(cumulated, place * float(cumulated[-1]), right=True)), len(cumulated) - 1)])
