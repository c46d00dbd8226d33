"""A whole block of an encoder as one step of the backward pass, on a processor with matrix tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.models.dropout import Dropout, RowDropout, site_key
from luthier.models.kernels.decoder_kernels import Heads
from luthier.models.kernels.fused_layer import BlockLayers, open_layers
from luthier.models.kernels.tile_kernels import TileKernels
from luthier.models.packing import Packing

BLOCKS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer", "CamembertLayer")
"""Classes of transformers whose forward pass is norm(x + attention(x)), and of that norm(it + feed-forward(it))."""


class _EncoderBlock(torch.autograd.Function):
    """Attention and feed-forward layer, each added to what went in, and normed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        heads: Heads,
        kernels: TileKernels,
        drops: Sequence[RowDropout | None],
        eps: Sequence[float],
        layers: BlockLayers,
        *tensors: Tensor,
    ) -> Tensor:
        """`tensors`: weight and bias of both norms; those of `layers`, which are queries, keys, values, what attention says, up, down; x: (tokens, width)."""
        *_, out, up, down = layers.layers
        projected, thin = layers.joint.forward(x)
        said, total = kernels.attention(projected, heads)
        output, out_thin = out.forward(said)
        first, middle, first_factors = kernels.add_norm(output, x, drops[0], tensors[0], tensors[1], eps[0])
        wide, up_thin = up.forward(middle)
        output, down_thin = down.forward(kernels.gelu(wide))
        second, output, second_factors = kernels.add_norm(output, middle, drops[1], tensors[2], tensors[3], eps[1])
        thin += [out_thin, up_thin, down_thin]
        norms = (tensors[0], tensors[2])
        ctx.save_for_backward(x, projected, said, total, first, first_factors, middle, wide, second, second_factors, *norms, *thin)
        ctx.given = heads, kernels, drops, layers
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        x, projected, said, total, first, first_factors, middle, wide, second, second_factors, *norms_and_thin = ctx.saved_tensors
        (heads, kernels, drops, layers), d_output = ctx.given, gradients[0].contiguous()
        (first_weight, second_weight), thin = norms_and_thin[:2], norms_and_thin[2:]
        *_, out, up, down = layers.layers
        needs, own_needs = ctx.needs_input_grad[6:10], layers.by_layer(ctx.needs_input_grad[10:])

        d_second = _of_norm(needs[2:], d_output, second, second_factors, second_weight, kernels)
        d_down, d_rest = kernels.add_norm_backward(d_output, second, second_factors, drops[1], second_weight)
        d_inner, d_down_thin = down.backward(d_down)
        inner, d_wide = kernels.gelu_backward(wide, d_inner)
        d_middle, d_up_thin = up.backward(d_wide, d_rest)
        feed = [
            *up.gradients(own_needs[4], d_wide, middle, thin[4], d_up_thin, kernels),
            *down.gradients(own_needs[5], d_down, inner, thin[5], d_down_thin, kernels),
        ]

        d_first = _of_norm(needs[:2], d_middle, first, first_factors, first_weight, kernels)
        d_out, d_rest = kernels.add_norm_backward(d_middle, first, first_factors, drops[0], first_weight)
        d_said, d_out_thin = out.backward(d_out)
        d_projected = kernels.attention_gradient(projected, heads, said, total, d_said)
        d_x, d_thin = layers.joint.backward(d_projected, d_rest)
        attention = [
            *layers.joint.gradients(own_needs[:3], d_projected, x, thin[:3], d_thin, kernels),
            *out.gradients(own_needs[3], d_out, said, thin[3], d_out_thin, kernels),
        ]
        d_x = d_x if ctx.needs_input_grad[0] else None
        return d_x, None, None, None, None, None, *d_first, *d_second, *layers.as_given([*attention, *feed])


def _of_norm(
    needs: Sequence[bool], d_said: Tensor, total: Tensor, factors: Tensor, weight: Tensor, kernels: TileKernels
) -> list[Tensor | None]:
    """The gradients of a norm's weight and bias."""
    if not any(needs):
        return [None, None]
    return [
        made.to(weight.dtype) if needed else None
        for made, needed in zip(kernels.norm_weights_backward(d_said, total, factors), needs, strict=True)
    ]


def open_encoder_block(block: Any) -> BlockLayers | None:
    """The layers of a block; None where it computes something else than is computed here.

    Args:
        block: of transformers, of a class in `BLOCKS`.
    """
    activation, attention = block.intermediate.intermediate_act_fn, block.attention
    is_gelu = (isinstance(activation, nn.GELU) and activation.approximate == "none") or type(activation).__name__ == "GELUActivation"
    if not is_gelu or block.is_decoder or block.add_cross_attention or block.chunk_size_feed_forward:
        return None
    if any(type(each.LayerNorm) is not nn.LayerNorm for each in (attention.output, block.output)):
        return None
    asking = (attention.self.query, attention.self.key, attention.self.value)
    layers = open_layers(block, (*asking, attention.output.dense, block.intermediate.dense, block.output.dense))
    return None if layers is None or any(layer.bias is None for layer in layers.layers) else layers


def forward_encoder_block(
    self: Any, own: Any, kernels: TileKernels, layers: BlockLayers, hidden_states: Tensor, *more: Any, **keywords: Any
) -> Any:
    """A block's forward pass in place of its own, which is taken where rows see one way alone, or somebody listens to a part.

    Args:
        self: the block, of transformers.
        own: its own forward pass.
        kernels: as loaded.
        layers: as `open_encoder_block` says.
        hidden_states: # (1, tokens, width)
        more: of its own forward pass.
        keywords: likewise.
    """
    packing, outputs = keywords.get("packing"), (self.attention.output, self.output)
    if packing is None or packing.causal or layers.are_listened_to():
        return own(hidden_states, *more, **keywords)
    drops, norms = [_drops(each.dropout, hidden_states) for each in outputs], [each.LayerNorm for each in outputs]
    weights = [weight for norm in norms for weight in (norm.weight, norm.bias)]
    given = (_heads(self.attention.self, packing), kernels, drops, [norm.eps for norm in norms], layers)
    states: Any = _EncoderBlock.apply(hidden_states[0].contiguous(), *given, *weights, *layers.tensors)
    return states[None]


def _heads(attention: Any, packing: Packing) -> Heads:
    """How its attention goes through the stream."""
    heads, drops = attention.num_attention_heads, None
    if packing.dropout and attention.training:
        tokens = packing.dropout_keys.tokens
        assert tokens is not None, "dropout needs keys"
        drops = RowDropout(tokens ^ site_key(f"attention {attention.luthier_site}"), packing.rows.longest, packing.dropout)
    return Heads(packing.rows, heads, heads, attention.attention_head_size, attention.scaling, None, None, False, drops)


def _drops(layer: Any, values: Tensor) -> RowDropout | None:
    """What a dropout layer does to these values; None where it does nothing."""
    assert isinstance(layer, Dropout)
    if not layer.p or not layer.training:
        return None
    return RowDropout(layer.dropout_keys.of(values, layer.stream) ^ layer.site, values.shape[-1], layer.p)
