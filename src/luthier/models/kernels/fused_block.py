"""A whole block of a decoder as one step of the backward pass: nothing is kept between its products that is not needed again, and torch and Python do little between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.models.kernels.decoder_kernels import DecoderKernels, Heads
from luthier.models.kernels.fused_layer import BlockLayers, open_layers

BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Classes of transformers whose forward pass is x + attention(norm(x)), and to that + feed-forward(norm(that))."""


class _Block(torch.autograd.Function):
    """Norm, attention, norm and gated feed-forward layer, each added to what went in."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        heads: Heads,
        kernels: DecoderKernels,
        eps: tuple[Tensor, Tensor],
        layers: BlockLayers,
        first: Tensor,
        second: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        """`first`, `second`: weights of the norms; `tensors`: those of `layers`, which are queries, keys, values, what attention says, gate, up, down; x: (tokens, width)."""
        *_, out, gate, up, down = layers.layers
        read, first_factor = kernels.rms_norm(x, first, eps[0])
        projected, thin = layers.joint.forward(read)
        said, total = kernels.attention(projected, heads)
        middle, out_thin = out.forward(said, x)
        normed, second_factor = kernels.rms_norm(middle, second, eps[1])
        (bent, gate_thin), (rest, up_thin) = gate.forward(normed), up.forward(normed)
        output, down_thin = down.forward(kernels.swiglu(bent, rest), middle)
        kept = (read, normed) if kernels.keeps_norms else (None, None)
        thin += [out_thin, gate_thin, up_thin, down_thin]
        ctx.save_for_backward(x, first_factor, projected, said, total, middle, second_factor, bent, rest, *kept, first, second, *eps, *thin)
        ctx.heads, ctx.kernels, ctx.layers = heads, kernels, layers
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        x, first_factor, projected, said, total, middle, second_factor, bent, rest, read, normed, first, second, *more = ctx.saved_tensors
        eps, thin, kernels, layers, needs = more[:2], more[2:], ctx.kernels, ctx.layers, ctx.needs_input_grad
        *_, out, gate, up, down = layers.layers
        own_needs, d_output = layers.by_layer(needs[7:]), gradients[0].contiguous()
        if normed is None:
            normed, _ = kernels.rms_norm(middle, second, eps[1])
        d_inner, d_down_thin = down.backward(d_output)
        inner, d_bent, d_rest = kernels.swiglu_backward(bent, rest, d_inner)
        d_normed, d_gate_thin = gate.backward(d_bent)
        d_normed, d_up_thin = up.backward(d_rest, d_normed)
        feed = [
            *gate.gradients(own_needs[4], d_bent, normed, thin[4], d_gate_thin, kernels),
            *up.gradients(own_needs[5], d_rest, normed, thin[5], d_up_thin, kernels),
            *down.gradients(own_needs[6], d_output, inner, thin[6], d_down_thin, kernels),
        ]
        d_second = kernels.rms_norm_weight_backward(d_normed, middle, second_factor).to(second.dtype) if needs[6] else None
        d_middle = kernels.rms_norm_backward(d_normed, middle, second, second_factor, d_output)

        d_said, d_out_thin = out.backward(d_middle)
        d_projected = kernels.attention_gradient(projected, ctx.heads, said, total, d_said)
        if read is None:
            read, _ = kernels.rms_norm(x, first, eps[0])
        d_read, d_thin = layers.joint.backward(d_projected)
        attention = [
            *layers.joint.gradients(own_needs[:3], d_projected, read, thin[:3], d_thin, kernels),
            *out.gradients(own_needs[3], d_middle, said, thin[3], d_out_thin, kernels),
        ]
        d_first = kernels.rms_norm_weight_backward(d_read, x, first_factor).to(first.dtype) if needs[5] else None
        d_x = kernels.rms_norm_backward(d_read, x, first, first_factor, d_middle) if needs[0] else None
        return d_x, None, None, None, None, d_first, d_second, *layers.as_given([*attention, *feed])


def open_block(block: Any) -> BlockLayers | None:
    """The layers of a block; None where it computes something else than is computed here.

    Args:
        block: of transformers, of a class in `BLOCKS`.
    """
    attention, feed = block.self_attn, block.mlp
    asking = (attention.q_proj, attention.k_proj, attention.v_proj)
    layers = open_layers(block, (*asking, attention.o_proj, feed.gate_proj, feed.up_proj, feed.down_proj))
    if layers is None or feed.config.hidden_act != "silu" or any(layer.bias is not None for layer in layers.layers[3:]):
        return None
    return layers


def forward_block(
    self: Any, own: Any, kernels: DecoderKernels, layers: BlockLayers, eps: tuple[Tensor, Tensor], hidden_states: Tensor, **keywords: Any
) -> Tensor:
    """A block's forward pass in place of its own, which is taken where rows are not of the kind that is known here, or somebody listens to a part.

    Args:
        self: the block, of transformers.
        own: its own forward pass.
        kernels: as loaded.
        layers: as `open_block` says.
        eps: of both norms, each # ()
        hidden_states: # (1, tokens, width)
        keywords: of its own forward pass.
    """
    attention, packing = self.self_attn, keywords.get("packing")
    if packing is None or not kernels.knows(packing, window_of(attention), attention.head_dim) or layers.are_listened_to():
        return own(hidden_states, **keywords)
    asking, looked_at = (width // attention.head_dim for width in layers.joint.widths[:2])
    cos, sin = (table[0].contiguous() for table in keywords["position_embeddings"])
    heads = Heads(packing.rows, asking, looked_at, attention.head_dim, attention.scaling, cos, sin)
    norms = (self.input_layernorm.weight, self.post_attention_layernorm.weight)
    states: Any = _Block.apply(hidden_states[0].contiguous(), heads, kernels, eps, layers, *norms, *layers.tensors)
    return states[None]


def window_of(attention: Any) -> int:
    """How far an attention layer of transformers looks back, its own token included; 0: to the beginning."""
    configured = attention.config.sliding_window if type(attention).__name__ == "MistralAttention" else None
    return getattr(attention, "sliding_window", configured) or 0
