"""A layer, plain or with a low-rank adapter, within a block that is one step of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from luthier.models.decoder_kernels import DecoderKernels

ADAPTER = "LoraLinear"
"""The class of low-rank adapters, which lies in a room above this one."""


@dataclass
class FusedLayer:
    """A layer, with its low-rank adapter where it has one.

    Args:
        weight: # (out, in)
        bias: # (out,) or None
        lora_a: of the adapter, # (rank, in) or None
        lora_b: # (out, rank) or None
        scale: of the adapter.
    """

    weight: Tensor
    bias: Tensor | None
    lora_a: Tensor | None
    lora_b: Tensor | None
    scale: float

    def adapt(self, x: Tensor, said: Tensor) -> Tensor | None:
        """Add what the adapter says to what the layer said; returns what goes through its middle, # (tokens, rank)"""
        if self.lora_a is None or self.lora_b is None:
            return None
        thin = x @ self.lora_a.t()
        said.addmm_(thin, self.lora_b.t(), alpha=self.scale)
        return thin

    def back(self, d_said: Tensor, d_x: Tensor) -> Tensor | None:
        """Add to the gradient of what the layer read what comes through the adapter; returns the gradient in its middle, # (tokens, rank)"""
        if self.lora_a is None or self.lora_b is None:
            return None
        d_thin = (d_said @ self.lora_b).mul_(self.scale)
        d_x.addmm_(d_thin, self.lora_a)
        return d_thin

    def gradients(
        self, needs: Sequence[bool], d_said: Tensor, x: Tensor, thin: Tensor | None, d_thin: Tensor | None, kernels: DecoderKernels
    ) -> list[Tensor | None]:
        """Of its tensors that need one, else None."""
        weight, bias, lora_a, lora_b = needs
        return [
            kernels.weight_gradient(d_said, x) if weight else None,
            kernels.column_sums(d_said).to(d_said.dtype) if bias else None,
            kernels.weight_gradient(d_thin, x) if lora_a and d_thin is not None else None,
            kernels.weight_gradient(d_said, thin).mul_(self.scale) if lora_b and thin is not None else None,
        ]

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """As they go through autograd."""
        return self.weight, self.bias, self.lora_a, self.lora_b


Layout = Sequence[tuple[float, tuple[bool, ...]]]
"""Of each layer the scale of its adapter, and which of its tensors there are: only those go through autograd, which takes its time for each."""


def layout_of(layers: Sequence[FusedLayer]) -> tuple[Layout, list[Tensor]]:
    """How layers go through autograd, and what of them does."""
    layout = tuple((layer.scale, tuple(tensor is not None for tensor in layer.tensors)) for layer in layers)
    return layout, [tensor for layer in layers for tensor in layer.tensors if tensor is not None]


def spread(flat: Sequence[Any], layout: Layout, missing: Any) -> list[list[Any]]:
    """What belongs to the tensors that there are, layer by layer, with something for the others."""
    each = iter(flat)
    return [[next(each) if there else missing for there in present] for _, present in layout]


def leave_out(all_parts: Sequence[Any], layout: Layout) -> list[Any]:
    """Of what belongs to each tensor of each layer, what belongs to those that there are."""
    there = [each for _, present in layout for each in present]
    return [part for part, wanted in zip(all_parts, there, strict=True) if wanted]


def layers_of(tensors: Sequence[Any], layout: Layout) -> list[FusedLayer]:
    """Layers from what went through autograd."""
    parts = zip(spread(tensors, layout, None), layout, strict=True)
    return [FusedLayer(weight, bias, lora_a, lora_b, scale) for (weight, bias, lora_a, lora_b), (scale, _) in parts]


def open_layer(module: nn.Module, may_be_biased: bool) -> FusedLayer | None:
    """A layer as it is computed here; None where it is another one.

    Args:
        module: of a network.
        may_be_biased: whether a bias is known where it stands.
    """
    if type(module) is nn.Linear and (module.bias is None or may_be_biased):
        return FusedLayer(module.weight, module.bias, None, None, 1.0)
    adapted: Any = module
    if type(module).__name__ == ADAPTER and not adapted.dropout.p and (adapted.base.bias is None or may_be_biased):
        return FusedLayer(adapted.base.weight, adapted.base.bias, adapted.lora_A, adapted.lora_B, adapted.scale)
    return None


def is_listened_to(block: nn.Module) -> bool:
    """Whether somebody has hooks on a part of a block, who wants that part to be called (hooks on the block itself are called anyway)."""
    parts = block.__dict__.get("luthier_parts")
    if parts is None:  # asked for in each step: to find them takes longer than to look at them
        parts = block.__dict__["luthier_parts"] = [part for part in block.modules() if part is not block]
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks for part in parts)
