"""Rows end to end in one stream, each attending to itself alone: no padding goes through the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from luthier.models.dropout import by_head, dropout_scale, site_key
from luthier.models.packing import AttentionGroup, Packing, band_mask
from luthier.models.precision import precise_dtype

NAME = "luthier_packed"
KEPT_LENGTH = 512
"""For rows longer than this, the probabilities are computed again on the way back instead of kept."""


class _Attention(torch.autograd.Function):
    """Softmax attention within each row, forward and backward as batched matrix products."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, site: int, window: int):
        """Attend; query: (tokens, heads, width), key and value: (tokens, key heads, width)."""
        saved: list[Any] = []
        outputs = []
        for group in packing.groups:
            q, k, v = group.queries.gather(query).mul_(scale), group.keys.gather(key), group.keys.gather(value)
            share = _probabilities(q, k, group, packing.causal, window)
            mask = _dropout_scale(share, group, packing, site)
            used = share if mask is None else share * mask
            outputs.append(_fold(used @ v, group))
            saved.append((q, k, v, mask, *((share, used) if _keeps_probabilities(group) else (None, None))))
        ctx.packing, ctx.scale, ctx.window, ctx.kept = packing, scale, window, saved
        return packing.scatter(outputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        packing: Packing = ctx.packing
        gradient = gradients[0].contiguous()
        d_query, d_key, d_value = [], [], []
        for group, (q, k, v, mask, share, used) in zip(packing.groups, ctx.kept, strict=True):
            if share is None:
                share = _probabilities(q, k, group, packing.causal, ctx.window)
                used = share if mask is None else share * mask
            d_out = _unfold(group.queries.gather(gradient, clear=True), k.shape[1])
            d_value.append(used.transpose(-1, -2) @ d_out)
            d_share = d_out @ v.transpose(-1, -2)
            if mask is not None:
                d_share.mul_(mask)
            d_score = torch.ops.aten._softmax_backward_data(d_share, share, -1, share.dtype)
            d_query.append(_fold(d_score @ k, group).mul_(ctx.scale))
            d_key.append(d_score.transpose(-1, -2) @ _unfold(q, k.shape[1]))
        ctx.kept = None
        return packing.scatter(d_query, clear=True), packing.sum_gradients(d_key), packing.sum_gradients(d_value), None, None, None, None


def _unfold(heads: Tensor, key_heads: int) -> Tensor:
    """Heads that share a key head become more rows of it, # (rows, heads, length, width) → (rows, key heads, shared × length, width)"""
    rows, count, length, width = heads.shape
    return heads.reshape(rows, key_heads, count // key_heads * length, width)


def _fold(values: Tensor, group: AttentionGroup) -> Tensor:
    """The other way, # (rows, key heads, shared × length, width) → (rows, heads, length, width)"""
    return values.reshape(group.queries.rows, -1, group.queries.length, values.shape[-1])


def _keeps_probabilities(group: AttentionGroup) -> bool:
    """Whether the probabilities of a group wait for the way back; of long rows they are computed again."""
    return group.queries.length * group.keys.length <= KEPT_LENGTH**2


def _probabilities(q: Tensor, k: Tensor, group: AttentionGroup, causal: bool, window: int) -> Tensor:
    """What each token looks at, # (rows, key heads, shared × asking length, length)"""
    score = _unfold(q, k.shape[1]) @ k.transpose(-1, -2)
    if causal:  # padding comes last, so no token sees it
        score.view(*score.shape[:2], -1, group.queries.length, group.keys.length).add_(group.additive_mask(window, score.dtype))
    else:
        if 0 < window < group.keys.length:
            score += band_mask(group.keys.length, window, score.dtype, score.device)
        if group.mask is not None:
            score += group.mask
    if score.is_cuda:
        return score.softmax(-1)
    precise = score.to(precise_dtype(score))  # in bf16 a processor's own softmax takes three times as long
    return torch.softmax(precise, -1, out=precise).to(score.dtype)


def _dropout_scale(share: Tensor, group: AttentionGroup, packing: Packing, site: int) -> Tensor | None:
    """What dropout multiplies a group's probabilities by, keyed by token, head and place; None where it does not act."""
    if packing.dropout == 0:
        return None
    tokens = packing.dropout_keys.tokens
    assert tokens is not None, "dropout needs keys"
    rows, key_heads, tall, length = share.shape
    keys = by_head(tokens.index_select(0, group.keys.source) ^ site, rows, key_heads * tall // length)
    keys *= 0x2C1B3C6D
    keys ^= (keys >> 12) & 0xFFFFF
    return dropout_scale(keys.view(rows, key_heads, tall), length, packing.dropout, share.dtype)


def _causal(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, window: int) -> Tensor:
    """Torch's own attention where each token sees those before it and nothing is dropped: padding comes last, so no token sees it.

    It leaves out the half that is not seen and keeps no probabilities; query: (tokens, heads, width), key and value: (tokens, key heads, width).
    """
    outputs = []
    for group in packing.groups:
        q, k, v = (
            tensor.flatten(1).index_select(0, side.source).view(side.rows, side.length, -1, tensor.shape[-1]).transpose(1, 2)
            for tensor, side in ((query, group.queries), (key, group.keys), (value, group.keys))
        )  # (rows, heads, length, width)
        mask = group.visible(window) if group.before is not None or 0 < window < group.keys.length else None
        rows = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(rows.transpose(1, 2).reshape(group.queries.rows * group.queries.length, -1).index_select(0, group.queries.position))
    return torch.cat(outputs).index_select(0, packing.back).view(query.shape)


def _fused_pays(query: Tensor, packing: Packing) -> bool:
    """Whether torch's fused attention is the faster: on a processor in bf16 its way back takes two to five times as long as batched products, up to some 500 tokens."""
    return query.is_cuda or query.dtype == torch.float32 or not all(map(_keeps_probabilities, packing.groups))


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> tuple[Tensor, None]:
    """Transformers' attention interface, for a stream of packed rows.

    Args:
        module: the attention layer that asks.
        query: # (1, heads, tokens, width)
        key: # (1, key heads, tokens, width)
        value: # (1, key heads, tokens, width)
        attention_mask: unused: the packing says who sees whom.
        options: `packing`, passed through the model's forward, `scaling`, and `sliding_window` where a layer looks back only so far.

    Returns:
        # (1, tokens, heads, width)
    """
    packing: Packing = options["packing"]
    if packing.dropout and not module.training:
        packing = replace(packing, dropout=0.0)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    window = options.get("sliding_window") or 0
    site = site_key(f"attention {getattr(module, 'luthier_site', getattr(module, 'layer_idx', 0))}")
    q, k, v = (tensor.squeeze(0).transpose(0, 1).contiguous() for tensor in (query, key, value))
    if packing.causal and packing.dropout == 0 and _fused_pays(q, packing):
        return _causal(q, k, v, packing, scale, window).unsqueeze(0), None
    return cast(Tensor, _Attention.apply(q, k, v, packing, scale, site, window)).unsqueeze(0), None


AttentionInterface.register(NAME, attention)
