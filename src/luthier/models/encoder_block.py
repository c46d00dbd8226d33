"""A whole block of an encoder as one step of the backward pass, on a processor with matrix tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.models.dropout import Dropout, head_keys, site_key
from luthier.models.fused_layer import Layout, is_listened_to, layers_of, layout_of, leave_out, open_layer, spread
from luthier.models.packing import Packing
from luthier.models.tile_kernels import Drops, TileHeads, TileKernels

BLOCKS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer", "CamembertLayer")
"""Classes of transformers whose forward pass is norm(x + attention(x)), and of that norm(it + feed-forward(it))."""


class _EncoderBlock(torch.autograd.Function):
    """Attention and feed-forward layer, each added to what went in, and normed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        heads: TileHeads,
        drops: Sequence[Drops | None],
        eps: Sequence[float],
        layout: Layout,
        kernels: TileKernels,
        *tensors: Tensor,
    ) -> Tensor:
        """`tensors`: weight and bias of both norms; those of queries, keys, values, what attention says, the layer up and the layer down, by `layout`; x: (tokens, width)."""
        query, key, value, out, up, down = layers_of(tensors[4:], layout)
        asking = (query, key, value)
        projected = torch.addmm(torch.cat([_bias(each.bias) for each in asking]), x, torch.cat([each.weight for each in asking]).t())
        thin = [layer.adapt(x, said) for layer, said in zip(asking, projected.split([len(each.weight) for each in asking], 1), strict=True)]
        said, total = kernels.attention(projected, heads)
        output = torch.addmm(_bias(out.bias), said, out.weight.t())
        thin.append(out.adapt(said, output))
        first, middle, first_factors = kernels.add_norm(output, x, drops[0], tensors[0], tensors[1], eps[0])
        wide = torch.addmm(_bias(up.bias), middle, up.weight.t())
        thin.append(up.adapt(middle, wide))
        inner = kernels.gelu(wide)
        output = torch.addmm(_bias(down.bias), inner, down.weight.t())
        thin.append(down.adapt(inner, output))
        second, output, second_factors = kernels.add_norm(output, middle, drops[1], tensors[2], tensors[3], eps[1])
        ctx.save_for_backward(x, projected, said, total, first, first_factors, middle, wide, second, second_factors, *thin, *tensors)
        ctx.given = heads, drops, layout, kernels
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        x, projected, said, total, first, first_factors, middle, wide, second, second_factors, *more = ctx.saved_tensors
        thin, tensors = more[:6], more[6:]
        (heads, drops, layout, kernels), d_output = ctx.given, gradients[0].contiguous()
        query, key, value, out, up, down = layers_of(tensors[4:], layout)
        needs = ctx.needs_input_grad[6:]
        layers_need = spread(needs[4:], layout, False)

        d_norms = _of_norm(needs[2:4], d_output, second, second_factors, tensors[2], kernels)
        d_down, d_rest = kernels.add_norm_backward(d_output, second, second_factors, drops[1], tensors[2])
        d_inner = d_down @ down.weight
        thin_down = down.back(d_down, d_inner)
        inner, d_wide = kernels.gelu_backward(wide, d_inner)
        d_middle = torch.addmm(d_rest, d_wide, up.weight)
        thin_up = up.back(d_wide, d_middle)
        feed = [
            *up.gradients(layers_need[4], d_wide, middle, thin[4], thin_up, kernels),
            *down.gradients(layers_need[5], d_down, inner, thin[5], thin_down, kernels),
        ]

        d_norms = [*_of_norm(needs[:2], d_middle, first, first_factors, tensors[0], kernels), *d_norms]
        d_out, d_rest = kernels.add_norm_backward(d_middle, first, first_factors, drops[0], tensors[0])
        d_said = d_out @ out.weight
        thin_out = out.back(d_out, d_said)
        d_projected = kernels.attention_gradient(projected, heads, said, total, d_said)
        asking, widths = (query, key, value), [len(each.weight) for each in (query, key, value)]
        d_x = torch.addmm(d_rest, d_projected, torch.cat([each.weight for each in asking]))
        parts = d_projected.split(widths, 1)
        d_thin = [layer.back(part, d_x) for layer, part in zip(asking, parts, strict=True)]
        joined = kernels.weight_gradient(d_projected, x).split(widths) if any(need[0] for need in layers_need[:3]) else None
        d_asking: list[Tensor | None] = []
        for which, layer in enumerate(asking):
            weight, *others = layers_need[which]
            made = layer.gradients((False, *others), parts[which], x, thin[which], d_thin[which], kernels)
            d_asking += [joined[which] if joined is not None and weight else None, *made[1:]]
        d_attended = out.gradients(layers_need[3], d_out, said, thin[3], thin_out, kernels)
        return (
            (d_x if ctx.needs_input_grad[0] else None),
            None,
            None,
            None,
            None,
            None,
            *d_norms,
            *leave_out([*d_asking, *d_attended, *feed], layout),
        )


def _bias(bias: Tensor | None) -> Tensor:
    """Of a layer that is known to have one."""
    assert bias is not None
    return bias


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


def knows(block: Any) -> bool:
    """Whether a block computes as it is computed here."""
    if type(block).__name__ not in BLOCKS or block.is_decoder or block.add_cross_attention or block.chunk_size_feed_forward:
        return False
    act = block.intermediate.intermediate_act_fn
    return (isinstance(act, nn.GELU) and act.approximate == "none") or type(act).__name__ == "GELUActivation"


def forward_encoder_block(self: Any, own: Any, kernels: TileKernels, hidden_states: Tensor, *more: Any, **keywords: Any) -> Any:
    """A block's forward pass in place of its own, which is taken where the rows or the layers are not of the kind that is known here.

    Args:
        self: the block, of transformers.
        own: its own forward pass.
        kernels: as loaded.
        hidden_states: # (1, tokens, width)
        more: of its own forward pass.
        keywords: likewise.
    """
    packing, attention = keywords.get("packing"), self.attention.self
    modules = (attention.query, attention.key, attention.value, self.attention.output.dense, self.intermediate.dense, self.output.dense)
    layers = [layer for layer in (open_layer(module, True) for module in modules) if layer is not None and layer.bias is not None]
    norms = (self.attention.output.LayerNorm, self.output.LayerNorm)
    if (
        packing is None
        or packing.rows is None
        or packing.causal
        or len(layers) < len(modules)
        or any(type(norm) is not nn.LayerNorm for norm in norms)
        or is_listened_to(self)
    ):
        return own(hidden_states, *more, **keywords)
    drops = [_drops(each.dropout, hidden_states) for each in (self.attention.output, self.output)]
    layout, tensors = layout_of(layers)
    weights = [weight for norm in norms for weight in (norm.weight, norm.bias)]
    plan = _heads(attention, packing)
    states: Any = _EncoderBlock.apply(
        hidden_states[0].contiguous(), plan, drops, [norm.eps for norm in norms], layout, kernels, *weights, *tensors
    )
    return states[None]


def _heads(attention: Any, packing: Packing) -> TileHeads:
    """How its attention goes through the stream."""
    rows, heads, nothing = packing.rows, attention.num_attention_heads, torch.empty(0)
    assert rows is not None
    drops = keys = None
    if packing.dropout and attention.training:
        tokens = packing.dropout_keys.tokens
        assert tokens is not None, "dropout needs keys"
        drops, keys = Drops(tokens ^ site_key(f"attention {attention.luthier_site}"), rows.longest, packing.dropout), head_keys(heads)
    return TileHeads(
        rows.starts, nothing, nothing, heads, heads, attention.attention_head_size, attention.scaling, rows, False, drops, keys
    )


def _drops(layer: Any, values: Tensor) -> Drops | None:
    """What a dropout layer does to these values; None where it does nothing."""
    assert isinstance(layer, Dropout)
    if not layer.p or not layer.training:
        return None
    return Drops(layer.dropout_keys.of(values, layer.stream) ^ layer.site, values.shape[-1], layer.p)
