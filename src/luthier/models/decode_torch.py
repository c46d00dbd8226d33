"""The operations of a step, of torch's own: for processors without a compiler, and what the compiled ones are measured by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from luthier.models.decode_network import Block, DecodeNetwork, Linear
from luthier.models.decode_pages import PAGE
from luthier.models.decode_step import Cache, Matrix, Rows


class TorchOperations:
    """Torch's operations.

    Products are taken with turned weights and of two rows at least: so MKL gives a row the same bits beside others as alone, which it does not for one row
    or weights as they lie (measured for 1 to 256 rows; on two threads some products of more than 16 rows are an exception).
    """

    name = "torch"

    def matrix(self, linear: Linear) -> Matrix:
        """Turn the weights; # (rows, inputs) → (rows, outputs)"""
        weight, bias = linear.weight.t().contiguous(), linear.bias

        def multiply(x: Tensor) -> Tensor:
            rows = x if len(x) > 1 else x.expand(2, -1)
            told = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
            return told[: len(x)]

        return multiply

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root mean square norm, # (rows, width)"""
        return functional.rms_norm(x, weight.shape, weight, eps)

    def activate(self, gate_up: Tensor, activation: str) -> Tensor:
        """The gate's function times the up projection, # (rows, 2 × inner) → (rows, inner)"""
        gate, up = gate_up.chunk(2, -1)
        return (functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")) * up

    def attend(self, qkv: Tensor, layer: int, block: Block, network: DecodeNetwork, cache: Cache, rows: Rows) -> Tensor:
        """Rotate, write into the cache and attend, text by text, # (rows, heads × head width)"""
        heads, key_heads, width = network.heads, network.key_heads, network.head_width
        query, key, value = qkv.view(len(qkv), -1, width).split([heads, key_heads, key_heads], 1)
        if block.q_norm is not None and block.k_norm is not None:
            query, key = self.norm(query, block.q_norm, network.eps), self.norm(key, block.k_norm, network.eps)
        if block.rotation:
            cos, sin = (table.index_select(0, rows.positions)[:, None] for table in cache.rotations[block.rotation])
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        places = rows.positions.long()
        page, slot = rows.tables[rows.text.long(), places // PAGE].long(), places % PAGE
        cache.keys[layer].permute(0, 3, 1, 2)[page, slot] = key
        cache.values[layer].permute(0, 2, 1, 3)[page, slot] = value
        told, first = [], 0
        for span in rows.spans:
            count = len(span.tokens)
            told.append(_attend_text(query[first : first + count], layer, span.start, span.pages, block.window, network.scale, cache))
            first += count
        return torch.cat(told)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, # (rows, heads, width)"""
    one, other = x.chunk(2, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def _attend_text(query: Tensor, layer: int, start: int, pages: object, window: int, scale: float, cache: Cache) -> Tensor:
    """The attention of one text's tokens, # (tokens, heads, width) → (tokens, heads × width)"""
    count, end = len(query), start + len(query)
    low = max(0, start + 1 - window) if window else 0
    first, last = low // PAGE, -(-end // PAGE)
    numbers = torch.tensor(list(pages)[first:last])  # pyright: ignore[reportArgumentType, reportCallIssue]
    begin = first * PAGE
    key = cache.keys[layer].index_select(0, numbers).permute(1, 0, 3, 2).flatten(1, 2)[:, low - begin : end - begin]
    value = cache.values[layer].index_select(0, numbers).transpose(0, 1).flatten(1, 2)[:, low - begin : end - begin]
    mask = None
    if count > 1:
        asking, seen = torch.arange(start, end)[:, None], torch.arange(low, end)
        mask = (seen <= asking) & (seen > asking - window) if window else seen <= asking
    told = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], key[None], value[None], attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[0]
    )
    return told[0].transpose(0, 1).reshape(count, -1)
