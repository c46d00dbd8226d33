"""The layers of a block that is one step of the backward pass, plain or with low-rank adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.kernels.compiled import Kernels
from luthier.models.kernels.replaced_forward import are_listened_to

ADAPTER = "LoraLinear"
"""The class of low-rank adapters, which lies in a room above this one."""


@dataclass(frozen=True)
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

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that may learn."""
        return self.weight, self.bias, self.lora_a, self.lora_b

    def forward(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the layer says, and what goes through the middle of its adapter, # (tokens, out), (tokens, rank)

        Args:
            x: # (tokens, in)
            added: to what a layer without bias says, # (tokens, out)
        """
        said = _product(x, self.weight.t(), self.bias if added is None else added)
        return said, self.adapt(x, said)

    def adapt(self, x: Tensor, said: Tensor) -> Tensor | None:
        """Add what the adapter says to what the layer said; returns what goes through its middle."""
        if self.lora_a is None or self.lora_b is None:
            return None
        thin = x @ self.lora_a.t()
        said.addmm_(thin, self.lora_b.t(), alpha=self.scale)
        return thin

    def backward(self, d_said: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The gradients of what it read and in the middle of its adapter, # (tokens, in), (tokens, rank)

        Args:
            d_said: # (tokens, out)
            added: to the first, # (tokens, in)
        """
        d_x = _product(d_said, self.weight, added)
        return d_x, self.adapt_backward(d_said, d_x)

    def adapt_backward(self, d_said: Tensor, d_x: Tensor) -> Tensor | None:
        """Add what comes through the adapter to the gradient of what the layer read; returns the gradient in its middle."""
        if self.lora_a is None or self.lora_b is None:
            return None
        d_thin = (d_said @ self.lora_b).mul_(self.scale)
        d_x.addmm_(d_thin, self.lora_a)
        return d_thin

    def gradients(
        self, needs: Sequence[bool], d_said: Tensor, x: Tensor, thin: Tensor | None, d_thin: Tensor | None, kernels: Kernels
    ) -> list[Tensor | None]:
        """Of its tensors that need one, else None."""
        weight, bias, lora_a, lora_b = needs
        return [
            kernels.weight_gradient(d_said, x) if weight else None,
            kernels.column_sums(d_said).to(d_said.dtype) if bias else None,
            kernels.weight_gradient(d_thin, x) if lora_a and d_thin is not None else None,
            kernels.weight_gradient(d_said, thin).mul_(self.scale) if lora_b and thin is not None else None,
        ]


class JointLayers:
    """Layers that read the same, as one product: three narrow ones take longer than one that is as wide as all.

    Args:
        layers: all with a bias, or all without.
    """

    def __init__(self, layers: Sequence[FusedLayer]) -> None:
        self.layers = layers
        self.widths = [len(layer.weight) for layer in layers]
        self.places = [slice(end - width, end) for end, width in zip(accumulate(self.widths), self.widths, strict=True)]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """What they say, one beside the other, and what goes through the middle of each adapter."""
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        said = _product(x, self._weight().t(), torch.cat(biases) if biases else None)
        return said, [
            layer.adapt(x, said[:, self.places[which]]) if layer.lora_a is not None else None for which, layer in enumerate(self.layers)
        ]

    def backward(self, d_said: Tensor, added: Tensor | None = None) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients of what they read, and in the middle of each adapter."""
        d_x = _product(d_said, self._weight(), added)
        return d_x, [
            layer.adapt_backward(d_said[:, self.places[which]], d_x) if layer.lora_a is not None else None
            for which, layer in enumerate(self.layers)
        ]

    def gradients(
        self,
        needs: Sequence[Sequence[bool]],
        d_said: Tensor,
        x: Tensor,
        thin: Sequence[Tensor | None],
        d_thin: Sequence[Tensor | None],
        kernels: Kernels,
    ) -> list[Tensor | None]:
        """Of the tensors of each that need one, else None."""
        joined = kernels.weight_gradient(d_said, x).split(self.widths) if any(need[0] for need in needs) else None
        made: list[Tensor | None] = []
        for which, layer in enumerate(self.layers):
            weight, *others = needs[which]
            made.append(joined[which] if joined is not None and weight else None)
            if any(others):
                made += layer.gradients((False, *others), d_said[:, self.places[which]], x, thin[which], d_thin[which], kernels)[1:]
            else:
                made += [None] * len(others)
        return made

    def _weight(self) -> Tensor:
        """# (out of all, in)"""
        return torch.cat([layer.weight for layer in self.layers])


def _product(left: Tensor, right: Tensor, added: Tensor | None) -> Tensor:
    return left @ right if added is None else torch.addmm(added, left, right)


@dataclass(frozen=True)
class BlockLayers:
    """The layers of a block.

    Args:
        layers: in the order in which they compute; the first three read the same.
        parts: all modules below the block.
    """

    layers: tuple[FusedLayer, ...]
    parts: tuple[nn.Module, ...]

    @cached_property
    def tensors(self) -> list[Tensor]:
        """What of them goes through autograd: it takes its time for each, so only what is there."""
        return [tensor for layer in self.layers for tensor in layer.tensors if tensor is not None]

    @cached_property
    def joint(self) -> JointLayers:
        """Queries, keys and values."""
        return JointLayers(self.layers[:3])

    @cached_property
    def _there(self) -> list[list[bool]]:
        return [[tensor is not None for tensor in layer.tensors] for layer in self.layers]

    def by_layer(self, needs: Sequence[bool]) -> list[list[bool]]:
        """Which tensors of each layer need a gradient, from what autograd says of `tensors`."""
        each = iter(needs)
        return [[there and next(each) for there in present] for present in self._there]

    def as_given(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of the gradients of each layer's tensors those of `tensors`."""
        return [gradient for gradient, there in zip(gradients, (each for present in self._there for each in present), strict=True) if there]

    def are_listened_to(self) -> bool:
        """Whether somebody has hooks on a part of the block, who wants that part to be called (hooks on the block itself are called anyway)."""
        return are_listened_to(self.parts)


def open_layers(block: nn.Module, modules: Sequence[nn.Module]) -> BlockLayers | None:
    """The layers of a block; None where one is not a product, or one with an adapter that drops nothing.

    Args:
        block: of a network.
        modules: its layers in the order in which they compute.
    """
    layers = [_open_layer(module) for module in modules]
    known = tuple(layer for layer in layers if layer is not None)
    alike = len({layer.bias is None for layer in known[:3]}) == 1
    return BlockLayers(known, tuple(part for part in block.modules() if part is not block)) if alike and len(known) == len(layers) else None


def _open_layer(module: Any) -> FusedLayer | None:
    if type(module) is nn.Linear:
        return FusedLayer(module.weight, module.bias, None, None, 1.0)
    if type(module).__name__ == ADAPTER and not module.dropout.p:
        return FusedLayer(module.base.weight, module.base.bias, module.lora_A, module.lora_B, module.scale)
    return None
