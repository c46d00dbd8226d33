"""Cross-entropy over a large vocabulary without ever holding all logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def next_token_loss(said: Tensor, weight: Tensor, target: Tensor, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """Cross-entropy, summed and of each position.

    Args:
        said: hidden states where something is to be said, # (learned, width)
        weight: the output embedding, # (vocabulary, width)
        target: the token to be said, # (learned,)
        chunk: positions whose logits exist at once.

    Returns:
        the sum, which gradients flow back from, and what each position adds to it, without gradient, # (learned,) fp32
    """
    return cast(tuple[Tensor, Tensor], _ChunkedCrossEntropy.apply(said, weight, target, chunk, torch.is_grad_enabled()))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """A sum's gradient is known but for one factor, so it is made on the way forward, while a chunk's logits exist."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, weight: Tensor, target: Tensor, chunk: int, learning: bool) -> tuple[Tensor, Tensor]:
        losses = said.new_empty(len(said), dtype=torch.float32)
        d_said = torch.empty_like(said) if learning and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if learning and ctx.needs_input_grad[1] else None
        rough = said.new_empty(min(chunk, len(said)), len(weight))  # written again for each chunk: fresh memory comes page by page
        precise = rough if rough.dtype == torch.float32 else rough.float()
        for start in range(0, len(said), chunk):
            part = slice(start, start + chunk)
            low, logits = rough[: len(said[part])], precise[: len(said[part])]  # (chunk, vocabulary)
            torch.mm(said[part], weight.t(), out=low)
            logits.copy_(low)
            largest, right = logits.amax(-1), logits.gather(1, target[part, None])[:, 0]
            share = torch.softmax(logits, -1, out=logits)
            # of the likeliest token the share is one over the sum of exponentials: no second pass for that sum
            losses[part] = largest - share.amax(-1).log() - right
            if d_said is None and d_weight is None:
                continue
            share.scatter_add_(1, target[part, None], share.new_full((len(share), 1), -1.0))
            share = low.copy_(share)
            if d_said is not None:
                d_said[part] = share @ weight
            if d_weight is not None:
                d_weight.addmm_(share.t(), said[part])
        ctx.gradients = d_said, d_weight
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor = gradients[0]
        d_said, d_weight = ctx.gradients
        ctx.gradients = None
        if float(factor) != 1.0:
            d_said, d_weight = (None if gradient is None else gradient.mul_(factor.to(gradient.dtype)) for gradient in (d_said, d_weight))
        return d_said, d_weight, None, None, None
