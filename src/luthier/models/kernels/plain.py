"""Fused kernels: small functions of tensors, and their backward passes, that a compiler turns into one pass over memory each.

Every function is plain torch, so it is also its own reference. They are compiled for bf16 alone (`models.compiled`); sums and powers are taken in fp32.
A name that ends in an underscore changes its arguments, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square norm (Zhang & Sennrich 2019), rounded before the weight as Llama does it.

    Args:
        x: # (tokens, width)
        weight: # (width,)
        eps: keeps the division finite, # ()

    Returns:
        the normed rows, # (tokens, width), and what each was multiplied by, # (tokens, 1) fp32
    """
    precise = x.float()
    factor = torch.rsqrt(precise.square().mean(-1, keepdim=True) + eps)
    return (precise * factor).to(x.dtype) * weight, factor


def rms_norm_backward(d_said: Tensor, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """The gradient of the input of `rms_norm`, # (tokens, width)"""
    normed = x.float() * factor
    pulled = d_said.float() * weight.float()
    return (factor * (pulled - normed * (pulled * normed).mean(-1, keepdim=True))).to(x.dtype)


def rms_norm_weight_backward(d_said: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """The gradient of the weight of `rms_norm`, # (width,) fp32"""
    return (d_said.float() * (x.float() * factor)).sum(0)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU of the gate times the up projection (Shazeer 2020), # (tokens, inner)"""
    precise = gate.float()
    return (precise * torch.sigmoid(precise) * up.float()).to(gate.dtype)


def swiglu_backward(gate: Tensor, up: Tensor, d_said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output of `swiglu`, computed again, and the gradients of gate and up projection, each # (tokens, inner)"""
    g, u, d = gate.float(), up.float(), d_said.float()
    share = torch.sigmoid(g)
    bent = g * share
    return (bent * u).to(gate.dtype), (d * u * (share + bent * (1 - share))).to(gate.dtype), (d * bent).to(gate.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, factor: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021); its backward pass is the same with the other sign of `sin`.

    Args:
        x: # (tokens, heads, width)
        cos: of each token's angles, the second half as the first, # (tokens, width)
        sin: the same.
        factor: what all is multiplied by, # ()
    """
    half = x.shape[-1] // 2
    one, other = x[..., :half].float(), x[..., half:].float()
    c, s = cos[:, None, :half].float() * factor, sin[:, None, :half].float() * factor
    return torch.cat([(one * c - other * s).to(x.dtype), (other * c + one * s).to(x.dtype)], -1)


def attention_backward(score: Tensor, d_share: Tensor, total: Tensor, pulled: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities of softmax attention, computed again, and the gradient of the scores, each as `score` (Dao et al. 2022, section B.4).

    Args:
        score: of every query, in every head, # (asking, length)
        d_share: the gradient of the probabilities, # (asking, length)
        total: the log-sum-exp of its scores, # (asking,) fp32
        pulled: the output times its gradient, summed, # (asking,) fp32
        first: the first position that it sees, # (asking,) fp32
        last: the last position that it sees, # (asking,) fp32
    """
    place = torch.arange(score.shape[-1], device=score.device, dtype=torch.int32).float()
    visible = (place >= first[:, None]) & (place <= last[:, None])
    share = torch.exp(torch.where(visible, score.float() - total[:, None], -torch.inf))
    return share.to(score.dtype), (share * (d_share.float() - pulled[:, None])).to(score.dtype)


def transpose(values: Tensor) -> Tensor:
    """The transpose, contiguous, # (tokens, width) → (width, tokens)"""
    return values.t().contiguous()


def cross_entropy_(logits: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of each position, # (positions,) fp32; the logits become the gradient of their sum.

    Args:
        logits: changed, # (positions, vocabulary)
        target: the right class, # (positions,)
    """
    precise = logits.float()
    largest = precise.amax(-1, keepdim=True)
    total = torch.exp(precise - largest).sum(-1, keepdim=True).log() + largest
    lost = total[:, 0] - logits.gather(1, target[:, None])[:, 0].float()
    place = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int32)
    right = place == target[:, None].to(torch.int32)
    logits.copy_((torch.exp(precise - total) - torch.where(right, 1.0, 0.0)).to(logits.dtype))
    return lost


def square_sum(values: Tensor) -> Tensor:
    """The sum of the squares, # (numbers,) → () fp32"""
    return values.float().square().sum()


def adamw_(weight: Tensor, mean: Tensor, square: Tensor, rounded: Tensor, gradient: Tensor, numbers: Tensor) -> None:
    """A step of AdamW (Loshchilov & Hutter 2019, algorithm 2); the new weights are also written in bf16 for the network.

    Args:
        weight: changed, # (numbers,) fp32
        mean: of the gradients, changed, # (numbers,) fp32
        square: the mean of their squares, changed, # (numbers,) fp32
        rounded: receives the weights, # (numbers,) bf16
        gradient: # (numbers,) bf16
        numbers: what the gradient is multiplied by; what decay leaves of a weight; of both betas, the beta and its complement; the step's size;
            the root of the second correction; epsilon, # (9,) fp32
    """
    scale, left, beta, other, beta_square, other_square, size, root, eps = numbers.unbind()
    g = gradient.float() * scale
    m = mean * beta + g * other
    v = square * beta_square + g * g * other_square
    w = weight * left - size * m / (v.sqrt() / root + eps)
    mean.copy_(m)
    square.copy_(v)
    weight.copy_(w)
    rounded.copy_(w.to(rounded.dtype))


@dataclass(frozen=True)
class Kernel:
    """A function and how to compile it.

    Args:
        function: of tensors alone.
        shapes: of its arguments: the names of axes, or numbers for those of fixed length; () is a single number.
        types: of its arguments, a letter each: b bfloat16, f float32, i int64.
    """

    function: Callable[..., Any]
    shapes: tuple[tuple[str | int, ...], ...]
    types: str


ROWS = ("tokens", "width")
SCORES = ("asking", "length")
KERNELS = {
    kernel.function.__name__: kernel
    for kernel in (
        Kernel(rms_norm, (ROWS, ("width",), ()), "bbf"),
        Kernel(rms_norm_backward, (ROWS, ROWS, ("width",), ("tokens", 1)), "bbbf"),
        Kernel(rms_norm_weight_backward, (ROWS, ROWS, ("tokens", 1)), "bbf"),
        Kernel(swiglu, (ROWS, ROWS), "bb"),
        Kernel(swiglu_backward, (ROWS, ROWS, ROWS), "bbb"),
        Kernel(rotary, (("tokens", "heads", 64), ("tokens", 64), ("tokens", 64), ()), "bbbf"),
        Kernel(attention_backward, (SCORES, SCORES, *(SCORES[:1],) * 4), "bbffff"),
        Kernel(transpose, (ROWS,), "b"),
        Kernel(cross_entropy_, (("tokens", "vocabulary"), ("tokens",)), "bi"),
        Kernel(square_sum, (("numbers",),), "b"),
        Kernel(adamw_, (("numbers",),) * 5 + ((9,),), "fffbbf"),
    )
}
"""All that are compiled, by name."""
