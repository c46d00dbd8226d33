"""The negative log-likelihood of each token by itself, over a large vocabulary, without ever holding all logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from luthier.models.next_token import _token_losses
from luthier.models.precision import precise_dtype


def token_losses(said: Tensor, weight: Tensor, target: Tensor, chunk: int = 256) -> Tensor:
    """What each token loses; gradients flow back, whatever is made of the losses.

    Args:
        said: hidden states where something is to be said, # (learned, width)
        weight: the output embedding, # (vocabulary, width)
        target: the token to be said, # (learned,)
        chunk: positions whose logits exist at once.

    Returns:
        # (learned,) fp32 (fp64 where the states are)
    """
    return cast(Tensor, _TokenLosses.apply(said, weight, target, chunk, torch.is_grad_enabled()))


class _TokenLosses(torch.autograd.Function):
    """Where the output embedding stays, a token's gradient is known but for one factor, so it is made on the way forward; where it moves, the logits are made a second time."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, weight: Tensor, target: Tensor, chunk: int, learning: bool) -> Tensor:
        states_learn, ctx.weight_learns = (learning and needed for needed in ctx.needs_input_grad[:2])
        known = states_learn and not ctx.weight_learns
        d_said = torch.empty_like(said) if known else None
        losses = said.new_empty(len(said), dtype=precise_dtype(said))
        for start in range(0, len(said), chunk):
            part = slice(start, start + chunk)
            logits = said[part] @ weight.t()  # (chunk, vocabulary)
            losses[part] = _token_losses(logits, target[part], known)
            if d_said is not None:
                d_said[part] = logits @ weight
        ctx.d_said, ctx.chunk = d_said, chunk
        if ctx.weight_learns:
            ctx.save_for_backward(said, weight, target)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor = gradients[0]
        if not ctx.weight_learns:
            d_said, ctx.d_said = ctx.d_said, None
            return (None if d_said is None else d_said.mul_(factor[:, None].to(d_said.dtype))), None, None, None, None
        states, weight, target = ctx.saved_tensors
        d_said, d_weight = torch.empty_like(states), torch.zeros_like(weight)
        for start in range(0, len(states), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = states[part] @ weight.t()
            _token_losses(logits, target[part], True)
            logits.mul_(factor[part, None].to(logits.dtype))
            d_said[part] = logits @ weight
            d_weight.addmm_(logits.t(), states[part])
        return d_said, d_weight, None, None, None
