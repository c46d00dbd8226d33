"""Rows end to end in one stream, each attending to itself alone: no padding goes through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from luthier.models.dropout import Chance, by_head, kept_scale, site_key
from luthier.models.past import Past, apart

NAME = "luthier_packed"
KEPT_LENGTH = 512
"""For rows longer than this, the probabilities are computed again on the way back instead of kept."""

SHORT = 24
SIMILAR = 0.75
GROUP_TOKENS = 4096
"""Rows share a padded group when they differ by at most 24 tokens or a quarter, up to 4,096 tokens a group."""


@dataclass(frozen=True)
class Group:
    """Rows of similar length that go through attention together, padded to the longest of them.

    Args:
        rows: how many.
        length: of the longest.
        source: where each place of the padded group takes its token from; padding takes any, # (rows × length,)
        place: where each of the group's tokens stands in it, # (tokens of the group,)
        valid: 1 where there is a token and 0 where there is padding, # (rows, 1, length, 1) or None
        mask: what is added to the scores so that padding is not seen, # (rows, 1, 1, length) or None
    """

    rows: int
    length: int
    source: Tensor
    place: Tensor
    valid: Tensor | None
    mask: Tensor | None
    _known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def gather(self, stream: Tensor, clear: bool = False) -> Tensor:
        """From the stream in one pass, # (tokens, heads, width) → (rows, heads, length, width).

        Args:
            stream: contiguous.
            clear: set padding to zero (needed for gradients alone: what padding asks for is never used).
        """
        _, heads, width = stream.shape
        source = self._known.get(heads)  # every block asks for the same
        if source is None:
            every = torch.arange(heads, device=stream.device)[:, None]
            source = self._known[heads] = (self.source.view(self.rows, 1, self.length) * heads + every).flatten()
        taken = stream.reshape(-1, width).index_select(0, source).view(self.rows, heads, self.length, width)
        return taken.mul_(self.valid) if clear and self.valid is not None else taken

    def places(self, heads: int) -> Tensor:
        """Where each token's head stands in a flattened group, # (tokens of the group, heads)"""
        row, column = self.place // self.length, self.place % self.length
        return (row[:, None] * heads + torch.arange(heads, device=self.place.device)) * self.length + column[:, None]


@dataclass(frozen=True)
class Packing:
    """How a stream is made of rows.

    Args:
        groups: rows of similar length.
        back: for each token of the stream, its place among the groups' tokens laid end to end, # (tokens,)
        causal: whether a token sees only those before it.
        chance: the keys for attention's dropout.
        dropout: its probability.
        past: how the stream differs from the rows laid end to end, which the groups are made of.
    """

    groups: Sequence[Group]
    back: Tensor
    causal: bool
    chance: Chance
    dropout: float
    past: Past | None = None
    _known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def behind(self) -> int:
        """Tokens that come behind those of the rows, and that nothing looks at."""
        return len(self.past.kept) - len(self.past.place) if self.past is not None and self.past.whole else 0

    def scatter(self, values: Sequence[Tensor], clear: bool = False) -> Tensor:
        """Back into the stream in one pass, # a (rows, heads, length, width) for each group → (tokens, heads, width)

        Args:
            values: of each group.
            clear: set what comes behind the rows' tokens to zero (needed for gradients alone).
        """
        heads, width = values[0].shape[1], values[0].shape[3]
        order = self._known.get(heads)
        if order is None:
            offsets, total = [], 0
            for group in self.groups:
                offsets.append(group.places(heads) + total)
                total += group.rows * heads * group.length
            order = torch.cat(offsets).index_select(0, self.back).flatten()
            order = self._known[heads] = torch.cat([order, order.new_zeros(self.behind * heads)])  # (tokens × heads,)
        whole = torch.cat([value.reshape(-1, width) for value in values]) if len(values) > 1 else values[0].reshape(-1, width)
        found = whole.index_select(0, order).view(-1, heads, width)
        if clear and self.behind:
            found[-self.behind :].zero_()
        return found


def pack(lengths: Tensor, causal: bool, chance: Chance, dropout: float, dtype: torch.dtype, past: Past | None = None) -> Packing:
    """Plan the attention of a stream.

    Args:
        lengths: tokens of each row, in stream order, # (rows,)
        causal: whether a token sees only those before it.
        chance: the keys for attention's dropout.
        dropout: its probability; 0 in eval mode.
        dtype: of the scores.
        past: how the stream differs from the rows laid end to end.
    """
    device = lengths.device
    sizes = lengths.tolist()
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    by_length = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    groups: list[Group] = []
    members: list[int] = []
    for row in by_length:
        if members and not _fits(sizes[row], sizes[members[0]], len(members)):
            groups.append(_group(members, sizes, starts, device, dtype))
            members = []
        members.append(row)
    groups.append(_group(members, sizes, starts, device, dtype))
    back = torch.cat([group.source.index_select(0, group.place) for group in groups]).argsort()
    return Packing(groups, back, causal, chance, dropout, past)


def _fits(length: int, longest: int, rows: int) -> bool:
    """Whether a row joins a group: padding costs little where rows are short, a call of its own costs much."""
    return length >= min(longest - SHORT, SIMILAR * longest) and (rows + 1) * longest <= GROUP_TOKENS


def _group(members: list[int], sizes: list[int], starts: list[int], device: torch.device, dtype: torch.dtype) -> Group:
    longest = sizes[members[0]]
    lengths = torch.tensor([sizes[row] for row in members])[:, None]
    columns = torch.arange(longest)[None, :]
    source = torch.tensor([starts[row] for row in members])[:, None] + columns.minimum(lengths - 1)  # (rows, length)
    seen = columns < lengths
    place = seen.flatten().nonzero()[:, 0].to(device)
    if bool(seen.all()):
        return Group(len(members), longest, source.flatten().to(device), place, None, None)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None, :].to(device)
    return Group(len(members), longest, source.flatten().to(device), place, seen.to(dtype)[:, None, :, None].to(device), mask)


class _Attention(torch.autograd.Function):
    """Softmax attention within each row, forward and backward as batched matrix products."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, site: int, window: int):
        """Attend; query: (tokens, heads, width), key and value: (tokens, key heads, width)."""
        kept: list[Any] = []
        said = []
        for group in packing.groups:
            q, k, v = group.gather(query).mul_(scale), group.gather(key), group.gather(value)
            share = _probabilities(q, k, group, packing.causal, window)
            mask = _kept(share, group, packing, site)
            used = share if mask is None else share * mask
            said.append(_fold(used @ v, group))
            kept.append((q, k, v, mask, *((share, used) if group.length <= KEPT_LENGTH else (None, None))))
        ctx.packing, ctx.scale, ctx.window, ctx.kept = packing, scale, window, kept
        return packing.scatter(said)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        packing: Packing = ctx.packing
        gradient = gradients[0].contiguous()
        d_query, d_key, d_value = [], [], []
        for group, (q, k, v, mask, share, used) in zip(packing.groups, ctx.kept, strict=True):
            if share is None:
                share = _probabilities(q, k, group, packing.causal, ctx.window)
                used = share if mask is None else share * mask
            d_out = _unfold(group.gather(gradient, clear=True), k.shape[1])
            d_value.append(used.transpose(-1, -2) @ d_out)
            d_share = d_out @ v.transpose(-1, -2)
            if mask is not None:
                d_share.mul_(mask)
            d_score = torch.ops.aten._softmax_backward_data(d_share, share, -1, share.dtype)
            d_query.append(_fold(d_score @ k, group).mul_(ctx.scale))
            d_key.append(d_score.transpose(-1, -2) @ _unfold(q, k.shape[1]))
        ctx.kept = None
        return *(packing.scatter(each, clear=True) for each in (d_query, d_key, d_value)), None, None, None, None


def _unfold(heads: Tensor, key_heads: int) -> Tensor:
    """Heads that share a key head become more rows of it, # (rows, heads, length, width) → (rows, key heads, shared × length, width)"""
    rows, count, length, width = heads.shape
    return heads.reshape(rows, key_heads, count // key_heads * length, width)


def _fold(values: Tensor, group: Group) -> Tensor:
    """The other way, # (rows, key heads, shared × length, width) → (rows, heads, length, width)"""
    return values.reshape(group.rows, -1, group.length, values.shape[-1])


def _probabilities(q: Tensor, k: Tensor, group: Group, causal: bool, window: int) -> Tensor:
    """What each token looks at, # (rows, key heads, shared × length, length)"""
    score = _unfold(q, k.shape[1]) @ k.transpose(-1, -2)
    length = group.length
    if causal:  # padding comes last, so no token sees it
        score.view(*score.shape[:2], -1, length, length).add_(_unseen(length, window, score.dtype, score.device))
    elif group.mask is not None:
        score += group.mask
    if score.is_cuda:
        return score.softmax(-1)
    precise = score.float()  # in bf16 a processor's own softmax takes three times as long
    return torch.softmax(precise, -1, out=precise).to(score.dtype)


@lru_cache(64)
def _unseen(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores so that each place looks at what it may see alone, # (length, length)"""
    hidden = torch.zeros(length, length, dtype=dtype, device=device)
    return hidden.masked_fill_(~_seen(length, window, device), torch.finfo(dtype).min)


def _seen(length: int, window: int, device: torch.device) -> Tensor:
    """Which places each place looks at: itself and those before it, the last `window` of them where it is not 0, # (length, length)"""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return seen.triu_(1 - window) if 0 < window < length else seen


def _kept(share: Tensor, group: Group, packing: Packing, site: int) -> Tensor | None:
    """What dropout multiplies a group's probabilities by, keyed by token, head and place; None where it does not act."""
    if packing.dropout == 0:
        return None
    tokens = packing.chance.tokens
    assert tokens is not None, "dropout needs keys"
    rows, key_heads, tall, length = share.shape
    keys = by_head(tokens.index_select(0, group.source) ^ site, rows, key_heads * tall // length)
    keys *= 0x2C1B3C6D
    keys ^= (keys >> 12) & 0xFFFFF
    return kept_scale(keys.view(rows, key_heads, tall), length, packing.dropout, share.dtype)


def _causal(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, window: int) -> Tensor:
    """Torch's own attention where each token sees those before it and nothing is dropped: padding comes last, so no token sees it.

    It leaves out the half that is not seen and keeps no probabilities; query: (tokens, heads, width), key and value: (tokens, key heads, width).
    """
    said, past = [], packing.past
    for group in packing.groups:
        source = group.source if past is None else past.place.index_select(0, group.source)
        q, k, v = (
            tensor.flatten(1).index_select(0, source).view(group.rows, group.length, -1, tensor.shape[-1]).transpose(1, 2)
            for tensor in (query, key, value)
        )  # (rows, heads, length, width)
        mask = _seen(group.length, window, q.device) if 0 < window < group.length else None
        rows = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        said.append(rows.transpose(1, 2).reshape(group.rows * group.length, -1).index_select(0, group.place))
    return torch.cat(said).index_select(0, packing.back if past is None else packing.back.index_select(0, past.kept)).view(query.shape)


def _fused_pays(query: Tensor, packing: Packing) -> bool:
    """Whether torch's fused attention is the faster: on a processor in bf16 its way back takes two to five times as long as batched products, up to some 500 tokens."""
    return query.is_cuda or query.dtype == torch.float32 or packing.groups[0].length > KEPT_LENGTH


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
    window = (options.get("sliding_window") or 0) if packing.causal else 0
    site = site_key(f"attention {getattr(module, 'luthier_site', getattr(module, 'layer_idx', 0))}")
    q, k, v = (tensor.squeeze(0).transpose(0, 1).contiguous() for tensor in (query, key, value))
    if packing.causal and packing.dropout == 0 and _fused_pays(q, packing):
        return _causal(q, k, v, packing, scale, window).unsqueeze(0), None
    past = None if packing.past is None or packing.past.whole else packing.past
    q, k, v = (apart(tensor, past) for tensor in (q, k, v))
    said = cast(Tensor, _Attention.apply(q, k, v, packing, scale, site, window))
    return (said if past is None else said.index_select(0, past.kept)).unsqueeze(0), None


AttentionInterface.register(NAME, attention)
