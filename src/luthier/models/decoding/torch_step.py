"""A step of torch's own operations: for machines without a compiler, and what the compiled one is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from luthier.models.decoding.network import Block, DecodeNetwork, Linear
from luthier.models.decoding.pages import PAGE
from luthier.models.decoding.step import Cache, Rows, Span, lay_out_rows

Product = Callable[[Tensor], Tensor]
"""Rows → rows, # (rows, inputs) → (rows, outputs)"""


@dataclass(frozen=True)
class _Products:
    """The products of a block."""

    qkv: Product
    output: Product
    gate_up: Product
    down: Product


class TorchDecoder:
    """Computes steps by torch's operations, in fp32.

    Args:
        network: as read.
        cache: of keys and values.
    """

    about = "torch's operations in fp32"

    def __init__(self, network: DecodeNetwork, cache: Cache) -> None:
        self.network, self.cache = network, cache
        self.products = [
            _Products(*(turned_product(each) for each in (block.qkv, block.output, block.gate_up, block.down))) for block in network.blocks
        ]
        self.head = turned_product(network.head)

    @torch.inference_mode()
    def step(self, spans: Sequence[Span]) -> Tensor:
        """Compute some tokens of some texts and keep their keys and values.

        Args:
            spans: of different texts; what lies before each has been computed.

        Returns:
            the logits of the wanted rows, in order, # (wanted, vocabulary)
        """
        rows = lay_out_rows(spans, self.cache)
        network = self.network
        x = network.embedding.index_select(0, rows.tokens) * network.embedding_scale
        for layer, (block, products) in enumerate(zip(network.blocks, self.products)):
            result = products.output(self._attend(products.qkv(self._norm(x, block.input_norm)), layer, block, spans, rows))
            x = x + (result if block.after_attention is None else self._norm(result, block.after_attention))
            result = products.down(activate(products.gate_up(self._norm(x, block.feed_norm)), network.activation))
            x = x + (result if block.after_feed is None else self._norm(result, block.after_feed))
        if not len(rows.wanted):
            return x.new_empty(0, network.vocabulary)
        return network.bend(self.head(self._norm(x.index_select(0, rows.wanted), network.norm)))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.network.eps)

    def _attend(self, qkv: Tensor, layer: int, block: Block, spans: Sequence[Span], rows: Rows) -> Tensor:
        """Rotate, write into the cache and attend, text by text, # (rows, heads × head width)"""
        network, cache = self.network, self.cache
        query, key, value = qkv.view(len(qkv), -1, network.head_width).split([network.heads, network.key_heads, network.key_heads], 1)
        if block.q_norm is not None and block.k_norm is not None:
            query, key = self._norm(query, block.q_norm), self._norm(key, block.k_norm)
        if block.rotation:
            cos, sin = (table.index_select(0, rows.positions)[:, None] for table in cache.rotations[block.rotation])
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        positions = rows.positions.long()
        page, slot = rows.tables[rows.text.long(), positions // PAGE].long(), positions % PAGE
        cache.keys[layer].permute(0, 3, 1, 2)[page, slot] = key
        cache.values[layer].permute(0, 2, 1, 3)[page, slot] = value
        texts = query.split([len(span.tokens) for span in spans])
        return torch.cat([_attend_text(each, layer, span, block.window, network.scale, cache) for each, span in zip(texts, spans)])


def turned_product(linear: Linear) -> Product:
    """A product by turned weights, of two rows at least.

    So MKL on Intel's processors gives a row the same bits beside others as alone, which it does not for one row, or for weights as they lie (measured for 1 to 256
    rows; on two threads some products of more than 16 rows are an exception). On AMD's the last bits differ.
    """
    weight, bias = linear.weight.t().contiguous(), linear.bias

    def multiply(x: Tensor) -> Tensor:
        rows = x if len(x) > 1 else x.expand(2, -1)
        result = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
        return result[: len(x)]

    return multiply


def activate(gate_up: Tensor, activation: str) -> Tensor:
    """The gate's function times the up projection, # (rows, 2 × inner) → (rows, inner)"""
    gate, up = gate_up.chunk(2, -1)
    return (functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")) * up


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, # (rows, heads, width)"""
    one, other = x.chunk(2, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def _attend_text(query: Tensor, layer: int, span: Span, window: int, scale: float, cache: Cache) -> Tensor:
    """The attention of one text's tokens, # (tokens, heads, width) → (tokens, heads × width)"""
    start, end = span.start, span.start + len(query)
    low = max(0, start + 1 - window) if window else 0
    pages = torch.tensor(span.pages[low // PAGE : -(-end // PAGE)])
    begin = low // PAGE * PAGE
    key = cache.keys[layer].index_select(0, pages).permute(1, 0, 3, 2).flatten(1, 2)[:, low - begin : end - begin]
    value = cache.values[layer].index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, low - begin : end - begin]
    mask = None
    if len(query) > 1:
        asking, key_positions = torch.arange(start, end)[:, None], torch.arange(low, end)
        mask = (key_positions <= asking) & (key_positions > asking - window) if window else key_positions <= asking
    result = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], key[None], value[None], attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[0]
    )
    return result[0].transpose(0, 1).reshape(len(query), -1)
