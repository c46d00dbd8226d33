"""Rows end to end in one stream, each attending to itself alone: no padding goes through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from luthier.models.dropout import Chance, keep_mask, scale_kept, site_key

NAME = "luthier_packed"
KEPT_LENGTH = 512
"""For rows longer than this, the probabilities are computed again on the way back instead of kept."""


@dataclass(frozen=True)
class Group:
    """Rows of similar length that go through attention together, padded to the longest of them.

    Args:
        rows: how many.
        length: of the longest.
        source: where each of their tokens stands in the stream, # (tokens of the group,)
        place: where it stands in the padded group, # (tokens of the group,)
        mask: what is added to the scores so that padding is not seen, # (rows, 1, 1, length) or None
    """

    rows: int
    length: int
    source: Tensor
    place: Tensor
    mask: Tensor | None

    def gather(self, stream: Tensor) -> Tensor:
        """From the stream, # (tokens, heads, width) → (rows, heads, length, width)"""
        padded = stream.new_zeros((self.rows * self.length, *stream.shape[1:])) if self.mask is not None else None
        taken = stream.index_select(0, self.source)
        if padded is not None:
            taken = padded.index_copy_(0, self.place, taken)
        return taken.view(self.rows, self.length, *stream.shape[1:]).transpose(1, 2).contiguous()

    def scatter(self, values: Tensor, stream: Tensor) -> None:
        """Back into the stream, # (rows, heads, length, width) → (tokens, heads, width)"""
        flat = values.transpose(1, 2).reshape(self.rows * self.length, *stream.shape[1:])
        stream.index_copy_(0, self.source, flat if self.mask is None else flat.index_select(0, self.place))


@dataclass(frozen=True)
class Packing:
    """How a stream is made of rows.

    Args:
        groups: rows of similar length.
        causal: whether a token sees only those before it.
        chance: the keys for attention's dropout.
        dropout: its probability.
    """

    groups: Sequence[Group]
    causal: bool
    chance: Chance
    dropout: float


def pack(lengths: Tensor, causal: bool, chance: Chance, dropout: float, dtype: torch.dtype) -> Packing:
    """Plan the attention of a stream.

    Args:
        lengths: tokens of each row, in stream order, # (rows,)
        causal: whether a token sees only those before it.
        chance: the keys for attention's dropout.
        dropout: its probability; 0 in eval mode.
        dtype: of the scores.
    """
    device = lengths.device
    sizes = lengths.tolist()
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    by_length = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    groups: list[Group] = []
    members: list[int] = []
    for row in [*by_length, None]:
        if row is not None and (
            not members or (sizes[row] * 4 >= sizes[members[0]] * 3 and (len(members) + 1) * sizes[members[0]] <= 4096)
        ):
            members.append(row)
            continue
        groups.append(_group(members, sizes, starts, device, dtype))
        members = [row] if row is not None else []
    return Packing(groups, causal, chance, dropout)


def _group(members: list[int], sizes: list[int], starts: list[int], device: torch.device, dtype: torch.dtype) -> Group:
    longest = sizes[members[0]]
    source = torch.cat([torch.arange(starts[row], starts[row] + sizes[row]) for row in members])
    place = torch.cat([torch.arange(sizes[row]) + position * longest for position, row in enumerate(members)])
    mask = None
    if any(sizes[row] < longest for row in members):
        seen = torch.arange(longest) < torch.tensor([sizes[row] for row in members])[:, None]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None, :].to(device)
    return Group(len(members), longest, source.to(device), place.to(device), mask)


class _Attention(torch.autograd.Function):
    """Softmax attention within each row, forward and backward as batched matrix products."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, site: int):
        """query: (tokens, heads, width); key, value: (tokens, key heads, width)"""
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        kept: list[Any] = []
        for group in packing.groups:
            q, k, v = group.gather(query) * scale, group.gather(key), group.gather(value)
            share = _probabilities(q, k, group, packing.causal)
            mask = _kept(share, group, packing, site)
            used = share if mask is None else torch.where(mask, share, 0).mul_(scale_kept(packing.dropout))
            group.scatter(_fold(used @ v, group), output)
            kept.append(((q, k, v), share if group.length <= KEPT_LENGTH else None, mask))
        ctx.packing, ctx.scale, ctx.kept = packing, scale, kept
        ctx.shapes = query.shape, key.shape
        return output

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (gradient,) = gradients
        packing: Packing = ctx.packing
        d_query = gradient.new_empty(ctx.shapes[0])
        d_key, d_value = gradient.new_empty(ctx.shapes[1]), gradient.new_empty(ctx.shapes[1])
        for group, ((q, k, v), share, mask) in zip(packing.groups, ctx.kept, strict=True):
            if share is None:
                share = _probabilities(q, k, group, packing.causal)
            d_out = _unfold(group.gather(gradient), k.shape[1])
            used = share if mask is None else torch.where(mask, share, 0).mul_(scale_kept(packing.dropout))
            group.scatter(used.transpose(-1, -2) @ d_out, d_value)
            d_share = d_out @ v.transpose(-1, -2)
            if mask is not None:
                d_share = torch.where(mask, d_share, 0).mul_(scale_kept(packing.dropout))
            d_score = torch.ops.aten._softmax_backward_data(d_share, share, -1, share.dtype)
            group.scatter(_fold(d_score @ k, group) * ctx.scale, d_query)
            group.scatter(d_score.transpose(-1, -2) @ _unfold(q, k.shape[1]), d_key)
        ctx.kept = None
        return d_query, d_key, d_value, None, None, None


def _unfold(heads: Tensor, key_heads: int) -> Tensor:
    """Heads that share a key head become more rows of it, # (rows, heads, length, width) → (rows, key heads, shared × length, width)"""
    rows, count, length, width = heads.shape
    return heads.reshape(rows, key_heads, count // key_heads * length, width)


def _fold(values: Tensor, group: Group) -> Tensor:
    """The other way, # (rows, key heads, shared × length, width) → (rows, heads, length, width)"""
    return values.reshape(group.rows, -1, group.length, values.shape[-1])


def _probabilities(q: Tensor, k: Tensor, group: Group, causal: bool) -> Tensor:
    """What each token looks at, # (rows, key heads, shared × length, length)"""
    score = _unfold(q, k.shape[1]) @ k.transpose(-1, -2)
    if group.mask is not None:
        score += group.mask
    if causal:
        length = group.length
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1)
        score.view(*score.shape[:2], -1, length, length).masked_fill_(later, torch.finfo(score.dtype).min)
    return score.softmax(-1)


def _kept(share: Tensor, group: Group, packing: Packing, site: int) -> Tensor | None:
    """The dropout mask of a group's probabilities, keyed by token, head and place, or None."""
    if packing.dropout == 0:
        return None
    tokens = packing.chance.tokens
    assert tokens is not None, "dropout needs keys"
    rows, key_heads, tall, length = share.shape
    shared = tall // length
    padded = tokens.new_zeros(group.rows * length).index_copy_(0, group.place, tokens.index_select(0, group.source))
    heads = torch.tensor([site_key(f"head {head}") ^ site for head in range(key_heads * shared)], dtype=torch.int32, device=share.device)
    keys = padded.view(rows, 1, length) ^ heads.view(1, -1, 1)
    keys *= 0x2C1B3C6D
    keys ^= (keys >> 12) & 0xFFFFF
    return keep_mask(keys.view(rows, key_heads, tall), length, packing.dropout)


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> tuple[Tensor, None]:
    """Transformers' attention interface, for a stream of packed rows.

    Args:
        module: the attention layer that asks.
        query: # (1, heads, tokens, width)
        key: # (1, key heads, tokens, width)
        value: # (1, key heads, tokens, width)
        attention_mask: unused: the packing says who sees whom.
        options: `packing`, passed through the model's forward, and `scaling`.

    Returns:
        # (1, tokens, heads, width)
    """
    packing: Packing = options["packing"]
    if packing.dropout and not module.training:
        packing = replace(packing, dropout=0.0)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    site = site_key(f"attention {getattr(module, 'luthier_site', getattr(module, 'layer_idx', 0))}")
    stream = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return cast(Tensor, _Attention.apply(*stream, packing, scale, site)).unsqueeze(0), None


AttentionInterface.register(NAME, attention)
