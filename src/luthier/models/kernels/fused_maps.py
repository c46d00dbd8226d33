"""What lies between the convolutions of a network for images, in fused passes: batch norm, the residual and the ReLU are one, pooling is one, and a convolution of few places is one product."""

from __future__ import annotations

from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer, ResNetConvLayer, ResNetShortCut

from luthier.models.kernels.image_kernels import DTYPES, ImageKernels, sides_of
from luthier.models.kernels.replaced_forward import are_listened_to, replace_forward

FEW = {torch.float32: 4, torch.bfloat16: 16}
"""Places of an output up to which a convolution is computed as one product. oneDNN computes several neighbouring places at once; of a line of two or four most of that is wasted."""
NARROW = 32
"""Channels of an input below which that does not pay."""
INFINITE = float("inf")
OPEN, RELU, RELU6 = (-INFINITE, INFINITE), (0.0, INFINITE), (0.0, 6.0)
"""Between which an activation clamps: none, ReLU, ReLU6."""


class _Norm(torch.autograd.Function):
    """A batch norm in training, plus a residual, clamped."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, norm: Any, bounds: tuple[float, float]
    ) -> Tensor:
        kernels: ImageKernels = norm.luthier_kernels
        output, found = kernels.norm(maps, residual, weight, bias, norm.eps, *bounds)
        count, share = maps.numel() // len(weight), norm.momentum
        norm.num_batches_tracked.add_(1)
        norm.running_mean.mul_(1 - share).add_(found.mean, alpha=share)
        norm.running_var.mul_(1 - share).add_(found.variance, alpha=share * count / (count - 1))
        ctx.save_for_backward(maps, None if residual is None else output)
        ctx.found, ctx.bounds, ctx.kernels = found, bounds, kernels
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        maps, output = ctx.saved_tensors
        d_output = gradients[0].contiguous(memory_format=torch.channels_last)
        found = ctx.kernels.norm_backward(d_output, maps, output, ctx.found, *ctx.bounds, ctx.needs_input_grad[0])
        return *found, None, None


class _Pool(torch.autograd.Function):
    """Max pooling."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernels: ImageKernels, *sizes: int) -> Tensor:
        output, chosen = kernels.pool(maps, *sizes)
        ctx.save_for_backward(maps, chosen)
        ctx.kernels, ctx.sizes = kernels, sizes
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # of the decorator
        maps, chosen = ctx.saved_tensors
        d_output = gradients[0].contiguous(memory_format=torch.channels_last)
        return ctx.kernels.pool_backward(d_output, chosen, maps, *ctx.sizes), None, None, None, None


class _Convolution(torch.autograd.Function):
    """A convolution as one product of what each place reads."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, kernels: ImageKernels, stride: int, padding: int) -> Tensor:
        sizes, laid = (weight.shape[2], stride, padding), weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        read = kernels.windows(maps, *sizes)  # (examples × places, kernel × kernel × channels)
        ctx.save_for_backward(maps, laid, read)
        ctx.kernels, ctx.sizes, ctx.shape = kernels, sizes, weight.shape
        sides = sides_of(maps, *sizes)
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
        d_maps = ctx.kernels.windows_backward(d_output @ laid, maps, *ctx.sizes) if ctx.needs_input_grad[0] else None
        return d_maps, d_weight, None, None, None


def norm_add_clamp(norm: nn.BatchNorm2d, maps: Tensor, residual: Tensor | None = None, bounds: tuple[float, float] = OPEN) -> Tensor:
    """Batch norm, plus a residual, clamped as an activation does it.

    Args:
        norm: of as many channels; its running statistics move while it trains.
        maps: # (examples, channels, height, width)
        residual: as the maps, or None.
        bounds: lowest and highest output: `OPEN`, `RELU` or `RELU6`.
    """
    if hasattr(norm, "luthier_kernels") and _fits(norm, maps) and (residual is None or residual.shape == maps.shape):
        if residual is not None:
            residual = residual.to(maps.dtype).contiguous(memory_format=torch.channels_last)
        return _Norm.apply(maps, residual, norm.weight, norm.bias, norm, bounds)  # pyright: ignore[reportReturnType]
    output = norm(maps) if residual is None else norm(maps) + residual
    if bounds == RELU:
        return nn.functional.relu(output)
    return output if bounds == OPEN else nn.functional.hardtanh(output, *bounds)


def fuse_maps(network: nn.Module, kernels: ImageKernels) -> None:
    """Let a network's batch norms, pooling and convolutions of few places compute in compiled code while they train.

    Args:
        network: changed in place; its parameters stay the same objects, and whatever it does not know here computes as before.
        kernels: as loaded.
    """
    forwards = {ResNetConvLayer: _convolve, ResNetShortCut: _convolve, ResNetBasicLayer: _add, ResNetBottleNeckLayer: _add}
    calling = {nn.MaxPool2d: _pool, nn.Conv2d: _multiply}
    for module in network.modules():
        kind = type(module)
        if isinstance(module, nn.BatchNorm2d):
            module.luthier_kernels = kernels  # pyright: ignore[reportArgumentType]
        elif kind in forwards:
            replace_forward(module, DTYPES, forwards[kind])
        elif kind in calling:
            replace_forward(module, DTYPES, calling[kind], kernels)


def _convolve(self: Any, own: Any, maps: Tensor) -> Tensor:
    bounds = _bounds_of(getattr(self, "activation", None))
    return own(maps) if bounds is None else norm_add_clamp(self.normalization, self.convolution(maps), None, bounds)


def _add(self: Any, own: Any, maps: Tensor) -> Tensor:
    bounds, last = _bounds_of(self.activation), self.layer[-1]
    if bounds is None or _bounds_of(last.activation) != OPEN or are_listened_to((self.layer, last)):
        return own(maps)
    inner = maps
    for layer in self.layer[:-1]:
        inner = layer(inner)
    return norm_add_clamp(last.normalization, last.convolution(inner), self.shortcut(maps), bounds)


def _pool(self: Any, own: Any, kernels: ImageKernels, maps: Tensor) -> Tensor:
    sizes = (self.kernel_size, self.stride, self.padding)
    plain = all(isinstance(size, int) for size in sizes) and not self.ceil_mode and not self.return_indices and self.dilation == 1
    return _Pool.apply(maps, kernels, *sizes) if plain and sizes[0] <= 16 and _are_maps(maps) else own(maps)  # pyright: ignore[reportReturnType]


def _multiply(self: Any, own: Any, kernels: ImageKernels, maps: Tensor) -> Tensor:
    (kernel, other), (stride, across), padding = self.kernel_size, self.stride, self.padding
    square = kernel == other and stride == across and isinstance(padding, tuple) and padding[0] == padding[1]
    plain = square and self.groups == 1 and self.bias is None and self.dilation == (1, 1) and self.padding_mode == "zeros"
    if not plain or not _are_maps(maps) or maps.dtype != self.weight.dtype:
        return own(maps)
    sides = sides_of(maps, kernel, stride, padding[0])
    if sides[0] * sides[1] > FEW[maps.dtype] or maps.shape[1] < NARROW:
        return own(maps)
    return _Convolution.apply(maps, self.weight, kernels, stride, padding[0])  # pyright: ignore[reportReturnType]


def _bounds_of(activation: Any) -> tuple[float, float] | None:
    """Between which an activation clamps; None where it computes something else, or somebody listens to it."""
    if activation is None or type(activation) is nn.Identity:
        return OPEN
    return RELU if type(activation) is nn.ReLU and not are_listened_to((activation,)) else None


def _fits(norm: nn.BatchNorm2d, maps: Tensor) -> bool:
    """Whether a norm learns from these maps as it is computed here."""
    usual = norm.training and norm.track_running_stats and norm.affine and norm.momentum is not None and torch.is_grad_enabled()
    precise = norm.weight.dtype == torch.float32
    return usual and precise and _are_maps(maps) and maps.numel() > len(norm.weight) and not are_listened_to((norm,))


def _are_maps(maps: Tensor) -> bool:
    """Whether maps are of a kind that the compiled code knows."""
    known = maps.dtype in DTYPES and not maps.is_cuda and maps.ndim == 4
    return known and maps.is_contiguous(memory_format=torch.channels_last)
