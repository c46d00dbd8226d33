"""The encoders and decoders of Marian, Pegasus, BART and T5, seen as the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attention:
    """One attention with what stands around it.

    Args:
        query: what asks, # (tokens, width) → (tokens, heads × head's width)
        key: what is looked at, the same.
        value: what is taken from there, the same.
        out: back to the width.
        norm: before or behind it.
        heads: how many.
        scale: of the scores.
    """

    query: Change
    key: Change
    value: Change
    out: Change
    norm: Change
    heads: int
    scale: float


@dataclass(frozen=True)
class Block:
    """One block.

    Args:
        module: of transformers; its mode says whether dropout acts.
        attention: within the side.
        crossing: from the target to the source, in a decoder.
        feed: the two linear layers.
        norm: of `feed`.
    """

    module: nn.Module
    attention: Attention
    crossing: Attention | None
    feed: Change
    norm: Change


@dataclass(frozen=True)
class Half:
    """An encoder or a decoder.

    Args:
        module: of transformers.
        blocks: first to last.
        embed: token ids and their places within their rows → what goes into the first block.
        last: behind the last block.
        before: whether norms stand before what they belong to (T5, Pegasus) or behind it (Marian, BART).
        bias: lengths of what asks and of what is looked at, and where asking begins → what is added to the scores, # (1, heads, asking, looked at)
    """

    module: nn.Module
    blocks: Sequence[Block]
    embed: Callable[[Tensor, Tensor], Tensor]
    last: Change
    before: bool
    bias: Callable[[int, int, int], Tensor] | None


def halves_of(network: Any) -> tuple[Half, Half]:
    """The encoder and the decoder of a network, read anew each time, for adapters take the place of layers."""
    if network.config.model_type in T5S:
        return _t5(network.encoder), _t5(network.decoder)
    return _marian(network.model.encoder), _marian(network.model.decoder)


T5S = ("t5", "mt5")
"""Families with norms before and relative positions."""


class Feed:
    """The two linear layers behind attention.

    Args:
        up: to the inner width.
        bend: what is done with each number between them.
        down: back.
    """

    def __init__(self, up: Change, bend: Change, down: Change) -> None:
        self.up, self.bend, self.down = up, bend, down

    def __call__(self, values: Tensor) -> Tensor:
        """One behind the other."""
        return self.down(self.bend(self.up(values)))


class WithoutBias:
    """A layer of keys without its bias, which moves all scores of a query alike, so that softmax does not see it: its gradient is noise, which Adam would follow.

    Args:
        layer: linear, or one that took its place.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, values: Tensor) -> Tensor:
        """The product alone."""
        return nn.functional.linear(values, self.layer.weight) if isinstance(self.layer, nn.Linear) else self.layer(values)


def plain_linear(change: Change) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias of a layer that is nothing but linear; None of any other, such as an adapter or one with a hook.

    Returns:
        # (outputs, inputs), (outputs,)
    """
    layer: Any = change.layer if isinstance(change, WithoutBias) else change
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    return layer.weight, None if isinstance(change, WithoutBias) else layer.bias


def _identity(values: Tensor) -> Tensor:
    return values


def _marian(stack: Any) -> Half:
    """Of Marian, Pegasus and BART, which differ in positions, in a norm behind the embeddings (BART) and in where norms stand (Pegasus: before)."""
    offset = getattr(stack.embed_positions, "offset", 0)
    scale = getattr(stack, "embed_scale", 1.0)  # BART's embedding multiplies by itself
    norm = getattr(stack, "layernorm_embedding", _identity)

    def embed(tokens: Tensor, places: Tensor) -> Tensor:
        positions = nn.functional.embedding(places + offset, stack.embed_positions.weight)
        values = stack.embed_tokens(tokens) * scale
        return norm(values + positions.to(values.dtype))  # a table of sines stays precise

    def attention(module: Any, around: Change) -> Attention:
        return Attention(
            module.q_proj, WithoutBias(module.k_proj), module.v_proj, module.out_proj, around, module.num_heads, module.scaling
        )

    def block(layer: Any) -> Block:
        crossing = attention(layer.encoder_attn, layer.encoder_attn_layer_norm) if hasattr(layer, "encoder_attn") else None
        return Block(
            layer,
            attention(layer.self_attn, layer.self_attn_layer_norm),
            crossing,
            Feed(layer.fc1, layer.activation_fn, layer.fc2),
            layer.final_layer_norm,
        )

    last = getattr(stack, "layer_norm", None)  # it is there where norms stand before their layers
    return Half(stack, [block(layer) for layer in stack.layers], embed, last or _identity, last is not None, None)


def _t5(stack: Any) -> Half:
    def attention(module: Any, around: Change) -> Attention:
        return Attention(module.q, module.k, module.v, module.o, around, module.n_heads, 1.0)

    def block(module: Any) -> Block:
        own, *crossing, feed = module.layer
        return Block(
            module,
            attention(own.SelfAttention, own.layer_norm),
            attention(crossing[0].EncDecAttention, crossing[0].layer_norm) if crossing else None,
            feed.DenseReluDense,
            feed.layer_norm,
        )

    relative = stack.block[0].layer[0].SelfAttention

    def bias(asking: int, looked_at: int, begins: int) -> Tensor:
        return relative.compute_bias(asking, looked_at, past_seen_tokens=begins)

    return Half(
        stack, [block(each) for each in stack.block], lambda tokens, places: stack.embed_tokens(tokens), stack.final_layer_norm, True, bias
    )
