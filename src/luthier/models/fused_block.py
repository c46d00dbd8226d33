"""A whole block of a decoder as one step of the backward pass: nothing is kept between its products that is not needed again, and torch and Python do little between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.models.decoder_kernels import DecoderKernels, Heads
from luthier.models.fused_layer import Layout, is_listened_to, layers_of, layout_of, leave_out, open_layer, spread

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
        layout: Layout,
        first: Tensor,
        second: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        """`first`, `second`: weights of the norms; `tensors`: those of queries, keys, values, what attention says, gate, up, down, by `layout`; x: (tokens, width)."""
        query, key, value, out, gate, up, down = layers_of(tensors, layout)
        read, first_factor = kernels.rms_norm(x, first, eps[0])
        asking = (query, key, value)
        projected = read @ torch.cat([each.weight for each in asking]).t()
        thin: list[Tensor | None] = []
        for layer, said in zip(asking, projected.split([len(each.weight) for each in asking], 1), strict=True):
            if layer.bias is not None:
                said += layer.bias
            thin.append(layer.adapt(read, said))
        said, total = kernels.attention(projected, heads)
        middle = torch.addmm(x, said, out.weight.t())
        thin.append(out.adapt(said, middle))
        normed, second_factor = kernels.rms_norm(middle, second, eps[1])
        bent, rest = normed @ gate.weight.t(), normed @ up.weight.t()
        thin += [gate.adapt(normed, bent), up.adapt(normed, rest)]
        inner = kernels.swiglu(bent, rest)
        output = torch.addmm(middle, inner, down.weight.t())
        thin.append(down.adapt(inner, output))
        kept = (read, normed) if kernels.keeps_norms else (None, None)
        ctx.save_for_backward(
            x, first_factor, projected, said, total, middle, second_factor, bent, rest, *kept, first, second, *eps, *thin, *tensors
        )
        ctx.heads, ctx.kernels, ctx.layout = heads, kernels, layout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        x, first_factor, projected, said, total, middle, second_factor, bent, rest, read, normed, first, second, *more = ctx.saved_tensors
        eps, thin, tensors = more[:2], more[2:9], more[9:]
        query, key, value, out, gate, up, down = layers_of(tensors, ctx.layout)
        needs, kernels, d_output = ctx.needs_input_grad, ctx.kernels, gradients[0].contiguous()
        tensors_need = spread(needs[7:], ctx.layout, False)
        if normed is None:
            normed, _ = kernels.rms_norm(middle, second, eps[1])

        d_inner = d_output @ down.weight
        d_thin_down = down.back(d_output, d_inner)
        inner, d_bent, d_rest = kernels.swiglu_backward(bent, rest, d_inner)
        d_normed = torch.addmm(d_bent @ gate.weight, d_rest, up.weight)
        d_thin_gate, d_thin_up = gate.back(d_bent, d_normed), up.back(d_rest, d_normed)
        feed = [
            *gate.gradients(tensors_need[4], d_bent, normed, thin[4], d_thin_gate, kernels),
            *up.gradients(tensors_need[5], d_rest, normed, thin[5], d_thin_up, kernels),
            *down.gradients(tensors_need[6], d_output, inner, thin[6], d_thin_down, kernels),
        ]
        d_second = kernels.rms_norm_weight_backward(d_normed, middle, second_factor).to(second.dtype) if needs[6] else None
        d_middle = kernels.rms_norm_backward(d_normed, middle, second, second_factor, d_output)

        d_attended = d_middle @ out.weight
        d_thin_out = out.back(d_middle, d_attended)
        d_projected = kernels.attention_gradient(projected, ctx.heads, said, total, d_attended)
        if read is None:
            read, _ = kernels.rms_norm(x, first, eps[0])
        asking, asking_need = (query, key, value), tensors_need[:3]
        d_read = d_projected @ torch.cat([each.weight for each in asking])
        parts = d_projected.split([len(each.weight) for each in asking], 1)
        d_thin = [layer.back(part, d_read) for layer, part in zip(asking, parts, strict=True)]
        joined = kernels.weight_gradient(d_projected, read) if any(need[0] for need in asking_need) else None
        d_asking: list[Tensor | None] = []
        for which, layer in enumerate(asking):
            made = layer.gradients((False, *asking_need[which][1:]), parts[which], read, thin[which], d_thin[which], kernels)
            begin = sum(len(each.weight) for each in asking[:which])
            made[0] = joined[begin : begin + len(layer.weight)] if joined is not None and asking_need[which][0] else None
            d_asking += made
        d_out = out.gradients(tensors_need[3], d_middle, said, thin[3], d_thin_out, kernels)
        d_first = kernels.rms_norm_weight_backward(d_read, x, first_factor).to(first.dtype) if needs[5] else None
        d_x = kernels.rms_norm_backward(d_read, x, first, first_factor, d_middle) if needs[0] else None
        return d_x, None, None, None, None, d_first, d_second, *leave_out([*d_asking, *d_out, *feed], ctx.layout)


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
    modules = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, feed.gate_proj, feed.up_proj, feed.down_proj)
    layers = [open_layer(module, which < 3) for which, module in enumerate(modules)]
    if packing is None or any(layer is None for layer in layers) or is_listened_to(self):
        return own(hidden_states, **keywords)
    cos, sin = (table[0] for table in keywords["position_embeddings"])
    heads = [len(layer.weight) // attention.head_dim for layer in layers[:2] if layer is not None]
    plan = kernels.plan(packing, window_of(attention), cos, sin, (heads[0], heads[1]), attention.head_dim, attention.scaling)
    if plan is None:
        return own(hidden_states, **keywords)
    known = [layer for layer in layers if layer is not None]
    layout, tensors = layout_of(known)
    norms = (self.input_layernorm.weight, self.post_attention_layernorm.weight)
    states: Any = _Block.apply(hidden_states[0].contiguous(), plan, kernels, eps, layout, *norms, *tensors)
    return states[None]


def are_plain(*layers: nn.Module) -> bool:
    """Whether layers are products and nothing else."""
    return all(type(layer) is nn.Linear and layer.bias is None for layer in layers)


def window_of(attention: Any) -> int:
    """How far an attention layer of transformers looks back, its own token included; 0: to the beginning."""
    configured = attention.config.sliding_window if type(attention).__name__ == "MistralAttention" else None
    return getattr(attention, "sliding_window", configured) or 0
