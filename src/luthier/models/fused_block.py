"""A whole block of a decoder as one step of the backward pass: where networks are narrow, what torch and Python do between small products takes longer than the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.decoder_kernels import LONGEST, WIDEST, DecoderKernels, Heads
from luthier.models.packing import Packing

BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Classes of transformers whose forward pass is x + attention(norm(x)), and to that + feed-forward(norm(that))."""


class _Block(torch.autograd.Function):
    """Norm, attention, norm and gated feed-forward layer, each added to what went in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: Heads, kernels: DecoderKernels, eps: tuple[Tensor, Tensor], *weights: Tensor) -> Tensor:
        """`weights`: first norm; queries, keys, values, what attention says; second norm; gate, up, down; x: (tokens, width)."""
        first, query, key, value, out, second, gate, up, down = weights
        read, first_factor = kernels.rms_norm(x, first, eps[0])
        projected = read @ torch.cat((query, key, value)).t()
        said, total = kernels.attention(projected, heads)
        middle = torch.addmm(x, said, out.t())
        normed, second_factor = kernels.rms_norm(middle, second, eps[1])
        bent, rest = normed @ gate.t(), normed @ up.t()
        ctx.save_for_backward(x, read, first_factor, projected, said, total, middle, normed, second_factor, bent, rest, *weights)
        ctx.heads, ctx.kernels = heads, kernels
        return torch.addmm(middle, kernels.swiglu(bent, rest), down.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, read, first_factor, projected, said, total, middle, normed, second_factor, bent, rest, *weights = ctx.saved_tensors
        first, query, key, value, out, second, gate, up, down = weights
        needs, kernels, d_said = ctx.needs_input_grad[4:], ctx.kernels, gradients[0].contiguous()

        def weight(which: int, d_output: Tensor, read: Tensor) -> Tensor | None:
            return d_output.t() @ read if needs[which] else None

        inner, d_bent, d_rest = kernels.swiglu_backward(bent, rest, d_said @ down)
        feed = (weight(6, d_bent, normed), weight(7, d_rest, normed), weight(8, d_said, inner))
        d_normed = torch.addmm(d_bent @ gate, d_rest, up)
        d_second = kernels.rms_norm_weight_backward(d_normed, middle, second_factor).to(second.dtype) if needs[5] else None
        d_middle = kernels.rms_norm_backward(d_normed, middle, second, second_factor, d_said)
        d_out = weight(4, d_middle, said)
        d_projected = kernels.attention_gradient(projected, ctx.heads, said, total, d_middle @ out)
        d_joined = d_projected.t() @ read if any(needs[1:4]) else None
        parts = (None,) * 3 if d_joined is None else d_joined.split([len(each) for each in (query, key, value)])
        d_read = d_projected @ torch.cat((query, key, value))
        d_first = kernels.rms_norm_weight_backward(d_read, x, first_factor).to(first.dtype) if needs[0] else None
        d_x = kernels.rms_norm_backward(d_read, x, first, first_factor, d_middle) if ctx.needs_input_grad[0] else None
        return d_x, None, None, None, d_first, *parts, d_out, d_second, *feed


def forward_block(
    self: Any, own: Any, kernels: DecoderKernels, eps: tuple[Tensor, Tensor], hidden_states: Tensor, **keywords: Any
) -> Tensor:
    """A block's forward pass in place of its own, which is taken where the block, or the rows, are not of the kind that is known here.

    Args:
        self: the block, of transformers.
        own: its own forward pass.
        kernels: as loaded.
        eps: of both norms, each # ()
        hidden_states: # (1, tokens, width)
        keywords: of its own forward pass.
    """
    attention, feed, packing = self.self_attn, self.mlp, keywords.get("packing")
    layers = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, feed.gate_proj, feed.up_proj, feed.down_proj)
    if packing is None or not are_short(packing, window_of(attention), attention.head_dim) or not are_plain(*layers):
        return own(hidden_states, **keywords)
    cos, sin = (table[0] for table in keywords["position_embeddings"])
    asking, looked_at = (len(layer.weight) // attention.head_dim for layer in layers[:2])
    heads = Heads(packing.starts, cos, sin, asking, looked_at, attention.head_dim, attention.scaling)
    query, key, value, out, *rest = (layer.weight for layer in layers)
    first, second = self.input_layernorm.weight, self.post_attention_layernorm.weight
    states: Any = _Block.apply(hidden_states[0], heads, kernels, eps, first, query, key, value, out, second, *rest)
    return states[None]


def are_plain(*layers: nn.Module) -> bool:
    """Whether layers are products and nothing else."""
    return all(type(layer) is nn.Linear and layer.bias is None for layer in layers)


def are_short(packing: Packing, window: int, width: int) -> bool:
    """Whether rows go through attention as the compiled code knows it: whole, causal, without dropout, and so short that their scores stay in a processor's caches."""
    if packing.starts is None or packing.dropout or not packing.causal or width > WIDEST:
        return False
    return max(group.keys.length for group in packing.groups) <= (min(LONGEST, window) if window else LONGEST)


def window_of(attention: Any) -> int:
    """How far an attention layer of transformers looks back, its own token included; 0: to the beginning."""
    configured = attention.config.sliding_window if type(attention).__name__ == "MistralAttention" else None
    return getattr(attention, "sliding_window", configured) or 0
