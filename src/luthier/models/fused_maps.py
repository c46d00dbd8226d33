"""What lies between the convolutions of a network for images, in fused passes: batch norm, what goes past it and the rectifier are one; pooling is one; a convolution of few places is one product."""

from __future__ import annotations

import types
from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer, ResNetConvLayer, ResNetShortCut

from luthier.models import image_kernels

SMALL = {torch.float32: 4, torch.bfloat16: 16}
"""Places up to which a convolution is one product: its own code computes several places of a line at once, and here there are none."""
NARROW = 32
"""Channels below which what each place reads is put together for too little."""
OPEN = float("inf")
"""A ceiling of this is none, and a floor of minus this."""


class _Norm(torch.autograd.Function):
    """A batch norm in training, plus what goes past it, within bounds."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor, norm: Any, floor: float, ceiling: float
    ) -> Tensor:
        output, found = image_kernels.load().norm(maps, past, weight, bias, norm.eps, floor, ceiling)
        count, share = maps.numel() // len(weight), norm.momentum
        norm.num_batches_tracked.add_(1)
        norm.running_mean.mul_(1 - share).add_(found.mean, alpha=share)
        norm.running_var.mul_(1 - share).add_(found.variance, alpha=share * count / (count - 1))
        ctx.save_for_backward(maps, None if past is None else output)
        ctx.found, ctx.bounds = found, (floor, ceiling)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        maps, output = ctx.saved_tensors
        d_output = gradients[0].contiguous(memory_format=torch.channels_last)
        floor, ceiling = ctx.bounds
        found = image_kernels.load().norm_backward(d_output, maps, output, ctx.found, floor, ceiling, ctx.needs_input_grad[0])
        return *found, None, None, None


class _Pool(torch.autograd.Function):
    """Max pooling."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        output, chosen = image_kernels.load().pool(maps, kernel, stride, padding)
        ctx.save_for_backward(maps, chosen)
        ctx.sizes = kernel, stride, padding
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        maps, chosen = ctx.saved_tensors
        d_output = gradients[0].contiguous(memory_format=torch.channels_last)
        return image_kernels.load().pool_backward(d_output, chosen, maps, *ctx.sizes), None, None, None


class _Convolution(torch.autograd.Function):
    """A convolution as one product of what each place reads."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        sizes, laid = (weight.shape[2], stride, padding), weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        read = image_kernels.load().windows(maps, *sizes)  # (examples × places, kernel × kernel × channels)
        ctx.save_for_backward(maps, laid, read)
        ctx.sizes, ctx.shape = sizes, weight.shape
        sides = image_kernels.sides_of(maps, *sizes)
        return (read @ laid.t()).view(len(maps), *sides, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        maps, laid, read = ctx.saved_tensors
        d_output = gradients[0].permute(0, 2, 3, 1).reshape(-1, len(laid))
        out, channels, kernel, _ = ctx.shape
        d_weight = (
            (d_output.t() @ read).view(out, kernel, kernel, channels).permute(0, 3, 1, 2).contiguous() if ctx.needs_input_grad[1] else None
        )
        d_maps = image_kernels.load().windows_backward(d_output @ laid, maps, *ctx.sizes) if ctx.needs_input_grad[0] else None
        return d_maps, d_weight, None, None


def norm_within(norm: nn.BatchNorm2d, maps: Tensor, past: Tensor | None = None, floor: float = -OPEN, ceiling: float = OPEN) -> Tensor:
    """What a batch norm says of maps, plus what goes past it, within bounds.

    Args:
        norm: of as many channels; what it knows of earlier maps moves while it trains.
        maps: # (examples, channels, height, width)
        past: as the maps; None: nothing goes past.
        floor: of a rectifier, 0.
        ceiling: of one that has one, such as 6.
    """
    if getattr(norm, "luthier_compiled", False) and _fits(norm, maps) and (past is None or _lies_like(past, maps)):
        return _Norm.apply(maps, past, norm.weight, norm.bias, norm, floor, ceiling)  # pyright: ignore[reportReturnType]
    output = norm(maps) if past is None else norm(maps) + past
    if (floor, ceiling) == (0.0, OPEN):
        return nn.functional.relu(output)
    return output if (floor, ceiling) == (-OPEN, OPEN) else nn.functional.hardtanh(output, floor, ceiling)


def fuse_maps(network: nn.Module) -> None:
    """Let a network's batch norms and its pooling compute in compiled code while they train.

    Args:
        network: changed in place; its parameters stay the same objects, and whatever it does not know here computes as before.

    Raises:
        LuthierError: the compiled code cannot be had.
    """
    image_kernels.load()
    forwards = {
        ResNetConvLayer: _convolve, ResNetShortCut: _convolve, ResNetBasicLayer: _add, ResNetBottleNeckLayer: _add, nn.MaxPool2d: _pool,
        nn.Conv2d: _product,
    }  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.luthier_compiled = True  # pyright: ignore[reportArgumentType]
        elif (forward := forwards.get(type(module))) is not None:
            _instead(module, forward)


def _instead(module: nn.Module, forward: Any) -> None:
    """Put a forward pass in place of the module's own, where the class is one of transformers or torch."""
    own = type(module).forward

    def choose(self: nn.Module, maps: Tensor) -> Tensor:
        return forward(self, own, maps) if self.training and torch.is_grad_enabled() else own(self, maps)

    module.forward = types.MethodType(choose, module)  # pyright: ignore[reportAttributeAccessIssue]


def _convolve(self: Any, own: Any, maps: Tensor) -> Tensor:
    bounds = _bounds_of(getattr(self, "activation", None))
    return own(self, maps) if bounds is None else norm_within(self.normalization, self.convolution(maps), None, *bounds)


def _add(self: Any, own: Any, maps: Tensor) -> Tensor:
    bounds, last = _bounds_of(self.activation), self.layer[-1]
    if bounds is None or _bounds_of(last.activation) != (-OPEN, OPEN) or _is_listened_to(self.layer, last):
        return own(self, maps)
    inner = maps
    for layer in self.layer[:-1]:
        inner = layer(inner)
    return norm_within(last.normalization, last.convolution(inner), self.shortcut(maps), *bounds)


def _pool(self: Any, own: Any, maps: Tensor) -> Tensor:
    sizes = (self.kernel_size, self.stride, self.padding)
    plain = all(isinstance(size, int) for size in sizes) and not self.ceil_mode and not self.return_indices and self.dilation == 1
    return _Pool.apply(maps, *sizes) if plain and sizes[0] <= 16 and _are_maps(maps) else own(self, maps)  # pyright: ignore[reportReturnType]


def _product(self: Any, own: Any, maps: Tensor) -> Tensor:
    (kernel, other), (stride, across), padding = self.kernel_size, self.stride, self.padding
    square = kernel == other and stride == across and isinstance(padding, tuple) and padding[0] == padding[1]
    plain = square and self.groups == 1 and self.bias is None and self.dilation == (1, 1) and self.padding_mode == "zeros"
    if not plain or not _are_maps(maps) or maps.dtype != self.weight.dtype:
        return own(self, maps)
    sides = image_kernels.sides_of(maps, kernel, stride, padding[0])
    if sides[0] * sides[1] > SMALL[maps.dtype] or maps.shape[1] < NARROW:
        return own(self, maps)
    return _Convolution.apply(maps, self.weight, stride, padding[0])  # pyright: ignore[reportReturnType]


def _bounds_of(activation: Any) -> tuple[float, float] | None:
    """Between which an activation says what it is given; None where it bends it otherwise, or somebody listens to it."""
    if activation is None or type(activation) is nn.Identity:
        return -OPEN, OPEN
    return (0.0, OPEN) if type(activation) is nn.ReLU and not _is_listened_to(activation) else None


def _fits(norm: nn.BatchNorm2d, maps: Tensor) -> bool:
    """Whether a norm learns from these maps as it is computed here."""
    usual = norm.training and norm.track_running_stats and norm.affine and norm.momentum is not None and torch.is_grad_enabled()
    precise = norm.weight.dtype == torch.float32
    return usual and precise and _are_maps(maps) and maps.numel() > len(norm.weight) and not _is_listened_to(norm)


def _are_maps(maps: Tensor) -> bool:
    """Whether maps are of a kind that the compiled code knows."""
    known = maps.dtype in image_kernels.DTYPES and not maps.is_cuda and maps.ndim == 4
    return known and maps.is_contiguous(memory_format=torch.channels_last)


def _lies_like(past: Tensor, maps: Tensor) -> bool:
    return past.shape == maps.shape and past.dtype == maps.dtype and _are_maps(past)


def _is_listened_to(*modules: nn.Module) -> bool:
    """Whether somebody has hooks on a module, who wants it to be called."""
    return any(each._forward_hooks or each._forward_pre_hooks or each._backward_hooks or each._backward_pre_hooks for each in modules)
