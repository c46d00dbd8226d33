"""Cross-entropy over a large vocabulary without ever holding all logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def next_token_loss(said: Tensor, weight: Tensor, target: Tensor, chunk: int = 512) -> Tensor:
    """Cross-entropy of each position.

    Args:
        said: hidden states where something is to be said, # (learned, width)
        weight: the output embedding, # (vocabulary, width)
        target: the token to be said, # (learned,)
        chunk: positions whose logits exist at once.

    Returns:
        # (learned,) fp32
    """
    return cast(Tensor, _ChunkedCrossEntropy.apply(said, weight, target, chunk))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward keeps one number a position; backward makes each chunk's logits again from it."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
        losses = said.new_empty(len(said), dtype=torch.float32)
        totals = torch.empty_like(losses)
        for start in range(0, len(said), chunk):
            part = slice(start, start + chunk)
            logits = (said[part] @ weight.t()).float()  # (chunk, vocabulary)
            totals[part] = logits.logsumexp(-1)
            losses[part] = totals[part] - logits.gather(1, target[part, None])[:, 0]
        ctx.save_for_backward(said, weight, target, totals)
        ctx.chunk = chunk
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        said, weight, target, totals = ctx.saved_tensors
        (gradient,) = gradients
        d_said = torch.empty_like(said) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(said), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            share = (said[part] @ weight.t()).float().sub_(totals[part, None]).exp_()  # (chunk, vocabulary)
            share.scatter_add_(1, target[part, None], share.new_full((len(share), 1), -1.0))
            share = share.mul_(gradient[part, None]).to(weight.dtype)
            if d_said is not None:
                d_said[part] = share @ weight
            if d_weight is not None:
                d_weight.addmm_(share.t(), said[part])
        return d_said, d_weight, None, None
