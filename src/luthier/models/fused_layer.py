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
        down: of the adapter, # (rank, in) or None
        up: # (out, rank) or None
        scale: of the adapter.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None
    up: Tensor | None
    scale: float

    def adapt(self, x: Tensor, said: Tensor) -> Tensor | None:
        """Add what the adapter says to what the layer said; returns what goes through its middle, # (tokens, rank)"""
        if self.down is None or self.up is None:
            return None
        thin = x @ self.down.t()
        said.addmm_(thin, self.up.t(), alpha=self.scale)
        return thin

    def back(self, d_said: Tensor, d_x: Tensor) -> Tensor | None:
        """Add to the gradient of what the layer read what comes through the adapter; returns the gradient in its middle, # (tokens, rank)"""
        if self.down is None or self.up is None:
            return None
        d_thin = (d_said @ self.up).mul_(self.scale)
        d_x.addmm_(d_thin, self.down)
        return d_thin

    def gradients(
        self, needs: Sequence[bool], d_said: Tensor, x: Tensor, thin: Tensor | None, d_thin: Tensor | None, kernels: DecoderKernels
    ) -> list[Tensor | None]:
        """Of its tensors that need one, else None."""
        weight, bias, down, up = needs
        return [
            kernels.weight_gradient(d_said, x) if weight else None,
            kernels.column_sums(d_said).to(d_said.dtype) if bias else None,
            kernels.weight_gradient(d_thin, x) if down and d_thin is not None else None,
            kernels.weight_gradient(d_said, thin).mul_(self.scale) if up and thin is not None else None,
        ]

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """As they go through autograd."""
        return self.weight, self.bias, self.down, self.up


def layers_of(tensors: Sequence[Any], scales: Sequence[float]) -> list[FusedLayer]:
    """Layers from what went through autograd."""
    parts = (tensors[PARTS * which : PARTS * (which + 1)] for which in range(len(scales)))
    return [FusedLayer(weight, bias, down, up, scale) for (weight, bias, down, up), scale in zip(parts, scales, strict=True)]


def open_layer(module: nn.Module, may_be_biased: bool) -> FusedLayer | None:
    """A layer as it is computed here; None where it is another one.

    Args:
        module: of a network.
        may_be_biased: whether a bias is known where it stands.
    """
    if any(each._forward_hooks or each._forward_pre_hooks for each in module.modules()):
        return None  # whoever listens wants it to be called
    if type(module) is nn.Linear and (module.bias is None or may_be_biased):
        return FusedLayer(module.weight, module.bias, None, None, 1.0)
    adapted: Any = module
    if type(module).__name__ == ADAPTER and not adapted.dropout.p and (adapted.base.bias is None or may_be_biased):
        return FusedLayer(adapted.base.weight, adapted.base.bias, adapted.lora_A, adapted.lora_B, adapted.scale)
    return None
