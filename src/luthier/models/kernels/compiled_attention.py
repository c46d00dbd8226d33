"""Causal attention in bf16 on a processor: torch's own forward pass; the backward pass in batched products and a compiled kernel.

Torch's own backward pass takes two to five times as long as batched products do, but those also compute the half that the causal mask hides. So queries are
taken in blocks, each with the keys up to its last one, and the probabilities are computed again from the log-sum-exp of the scores instead of being kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels.compiled import Kernels
from luthier.models.packing import AttentionGroup, Packing

BLOCK = 128
"""Tokens that ask at once on the way back; rows up to twice as long are not divided."""


class CompiledAttention(torch.autograd.Function):
    """Softmax attention within each row; each token sees those before it and itself."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, window: int, kernels: Kernels) -> Tensor:
        """Attend; query, scaled: (tokens, heads, width), key and value: (tokens, key heads, width)."""
        saved: list[tuple[Tensor, ...]] = []
        outputs: list[Tensor] = []
        for group in packing.groups:
            q, k, v = group.queries.gather(query), group.keys.gather(key), group.keys.gather(value)
            shared = q.shape[1] // k.shape[1]
            plain = group.before is None and not 0 < window < group.keys.length
            rows, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q,
                k.repeat_interleave(shared, 1),
                v.repeat_interleave(shared, 1),
                is_causal=plain,
                attn_mask=None if plain else _mask(group, window, q.dtype),
                scale=1.0,
            )
            outputs.append(rows)
            saved.append((q, k, v, total))
        stream = packing.scatter(outputs)
        ctx.packing, ctx.window, ctx.kept, ctx.kernels = packing, window, saved, kernels
        ctx.save_for_backward(stream)  # the layer behind keeps the same
        return stream

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients of queries, keys and values; `gradients`: of what was said, # (tokens, heads, width)"""
        packing: Packing = ctx.packing
        gradient = gradients[0].contiguous()
        (output,) = ctx.saved_tensors
        pulled = (gradient.float() * output).sum(-1, keepdim=True)  # (tokens, heads, 1)
        by_group = [
            _back(group, gradient, pulled, saved, ctx.window, ctx.kernels) for group, saved in zip(packing.groups, ctx.kept, strict=True)
        ]
        ctx.kept = None
        d_query, d_key, d_value = zip(*by_group, strict=True)
        return packing.scatter(d_query, clear=True), packing.sum_gradients(d_key), packing.sum_gradients(d_value), None, None, None


def _mask(group: AttentionGroup, window: int, dtype: torch.dtype) -> Tensor:
    """What hides places, as torch takes it, # (asking length, length) or (rows, 1, asking length, length)"""
    hidden = group.additive_mask(window, dtype)
    return hidden if hidden.ndim == 2 else hidden.squeeze(2)


def _back(
    group: AttentionGroup, gradient: Tensor, pulled: Tensor, saved: tuple[Tensor, ...], window: int, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of one group's queries, keys and values."""
    q, k, v, total = saved
    (rows, heads, asking, width), key_heads, length = q.shape, k.shape[1], k.shape[2]
    shared = heads // key_heads
    d_said = group.queries.gather(gradient, clear=True)
    pulled = group.queries.gather(pulled, clear=True)[..., 0]  # padding asks for nothing, so it pulls at no key
    later = 0 if group.before is None else int(group.before.max())  # how much further than its own place a token may see
    size = (
        -(-asking // max(1, round(asking / BLOCK))) if asking > 2 * BLOCK else asking
    )  # blocks of equal length: a short last one costs as many calls
    blocks = [(start, min(start + size, asking), min(start + size + later, length)) for start in range(0, asking, size)]
    d_query: list[Tensor] = []
    d_key, d_value = (torch.zeros(k.shape, dtype=torch.float32) if len(blocks) > 1 else None for _ in range(2))
    for start, end, reach in blocks:
        queries, answered = (each[:, :, start:end].reshape(rows, key_heads, -1, width) for each in (q, d_said))
        keys, values = k[:, :, :reach], v[:, :, :reach]
        share, d_score = kernels.attention_backward(
            (queries @ keys.transpose(-1, -2)).view(-1, reach),
            (answered @ values.transpose(-1, -2)).view(-1, reach),
            total[:, :, start:end].flatten(),
            pulled[:, :, start:end].flatten(),
            *_sees(group, start, end, heads, window),
        )
        share, d_score = (each.view(rows, key_heads, shared * (end - start), reach) for each in (share, d_score))
        d_query.append((d_score @ keys).view(rows, heads, end - start, width))
        more_key, more_value = d_score.transpose(-1, -2) @ queries, share.transpose(-1, -2) @ answered
        if d_key is None or d_value is None:
            return d_query[0], more_key, more_value
        d_key[:, :, :reach] += more_key
        d_value[:, :, :reach] += more_value
    assert d_key is not None and d_value is not None
    return torch.cat(d_query, 2), d_key.to(q.dtype), d_value.to(q.dtype)


def _sees(group: AttentionGroup, start: int, end: int, heads: int, window: int) -> tuple[Tensor, Tensor]:
    """The first and the last place that tokens see, of every row and head, each # (rows × heads × (end - start),) fp32"""
    key = ("sees", start, end, heads, window)
    if key not in group.known:  # every block of the network asks for the same
        last = torch.arange(start, end, dtype=torch.float32).expand(group.queries.rows, 1, -1)
        last = (last if group.before is None else last + group.before[:, None, None]).expand(-1, heads, -1).flatten()
        first = last - window + 1 if window > 0 else torch.zeros_like(last)
        group.known[key] = (first, last)
    return group.known[key]
