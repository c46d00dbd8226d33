"""Cross-entropy over a large vocabulary without ever holding all logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from luthier.models.kernels.compiled import Kernels
from luthier.models.precision import precise_dtype

PRECISE = 64
"""Positions whose logits exist in fp32 at once: few enough to stay in a processor's caches."""


def next_token_loss(
    said: Tensor, weight: Tensor, target: Tensor, chunk: int = 256, kernels: Kernels | None = None, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, summed and of each position.

    Args:
        said: hidden states where something is to be said, # (learned, width)
        weight: the output embedding, # (vocabulary, width)
        target: the token to be said, # (learned,)
        chunk: positions whose logits exist at once.
        kernels: the compiled ones, where they are used.
        smoothing: share of each target that is spread evenly over the vocabulary (label smoothing), 0 ≤ smoothing < 1.

    Returns:
        the sum, which gradients flow back from, and what each position adds to it, without gradient, # (learned,) fp32 (fp64 where the states are)
    """
    made_for = kernels is not None and said.dtype == kernels.dtype and not smoothing  # they know that alone
    learning, used = torch.is_grad_enabled(), kernels if made_for else None
    return cast(tuple[Tensor, Tensor], _ChunkedCrossEntropy.apply(said, weight, target, chunk, learning, used, smoothing))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """A sum's gradient is known but for one factor, so it is made on the way forward, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any, said: Tensor, weight: Tensor, target: Tensor, chunk: int, learning: bool, kernels: Kernels | None, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        losses = said.new_empty(len(said), dtype=precise_dtype(said))
        states_learn, weight_learns = (learning and needed for needed in ctx.needs_input_grad[:2])
        d_said = torch.empty_like(said) if states_learn else None
        d_weight = None
        room = said.new_empty(min(chunk, len(said)), len(weight))  # written again for each chunk: fresh memory comes page by page
        for start in range(0, len(said), chunk):
            part = slice(start, start + chunk)
            logits = torch.mm(said[part], weight.t(), out=room[: len(said[part])])  # (chunk, vocabulary)
            if kernels is not None and learning:
                losses[part] = kernels.cross_entropy_(logits, target[part])
            else:
                losses[part] = _token_losses(logits, target[part], states_learn or weight_learns, smoothing)
            if d_said is not None:
                d_said[part] = logits @ weight
            if weight_learns:
                turned = logits.t() if kernels is None else kernels.transpose(logits)
                d_weight = turned @ said[part] if d_weight is None else d_weight.addmm_(turned, said[part])
        if weight_learns and d_weight is None:
            d_weight = torch.zeros_like(weight)
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
        return d_said, d_weight, None, None, None, None, None


def _token_losses(logits: Tensor, target: Tensor, learning: bool, smoothing: float = 0.0) -> Tensor:
    """What each position loses; where something learns, its logits become the loss's gradient, # (positions, vocabulary) → (positions,) fp32 or fp64"""
    losses, at_once = [], len(logits) if logits.is_cuda else PRECISE
    for low, right in zip(logits.split(at_once), target.split(at_once), strict=True):
        precise = low.to(precise_dtype(low))
        largest, hit = precise.amax(-1), precise.gather(1, right[:, None])[:, 0]
        if smoothing:
            hit = (1 - smoothing) * hit + smoothing * precise.mean(-1)
        share = torch.softmax(precise, -1, out=precise)
        # of the likeliest token the share is one over the sum of exponentials: no second pass for that sum
        losses.append(largest - share.amax(-1).log() - hit)
        if learning:
            share = share.sub_(smoothing / share.shape[-1]) if smoothing else share
            low.copy_(share.scatter_add_(1, right[:, None], share.new_full((len(share), 1), smoothing - 1.0)))
    return torch.cat(losses)
