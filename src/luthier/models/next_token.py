"""Cross-entropy over a large vocabulary without ever holding all logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def next_token_loss(said: Tensor, weight: Tensor, target: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
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
        for start in range(0, len(said), chunk):
            part = slice(start, start + chunk)
            logits = (said[part] @ weight.t()).float()  # (chunk, vocabulary)
            total = logits.logsumexp(-1)
            losses[part] = total - logits.gather(1, target[part, None])[:, 0]
            if d_said is None and d_weight is None:
                continue
            share = logits.sub_(total[:, None]).exp_()
            share.scatter_add_(1, target[part, None], share.new_full((len(share), 1), -1.0))
            share = share.to(weight.dtype)
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
