"""A layer, plain or with a low-rank adapter, within a block that is one step of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from luthier.models.decoder_kernels import DecoderKernels

ADAPTER = "LoraLinear"
"""The class of low-rank adapters, which lies in a room above this one."""
PARTS = 4
"""Tensors of a layer: its weight and bias, and the two matrices of its adapter."""


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


def layers_of(tensors: Sequence[Any], scales: Sequence[float]) -> list[FusedLayer]:
    """Layers from what went through autograd."""
    parts = (tensors[PARTS * which : PARTS * (which + 1)] for which in range(len(scales)))
    return [FusedLayer(weight, bias, lora_a, lora_b, scale) for (weight, bias, lora_a, lora_b), scale in zip(parts, scales, strict=True)]


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
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind) for part in block.modules() if part is not block for kind in kinds)
