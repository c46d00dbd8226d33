"""What a network keeps beside its parameters: the buffers of its state dict, such as the running statistics of a batch norm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from luthier.core.errors import RunError, nearest


class Buffers:
    """The persistent buffers of a network: those that its state dict holds.

    A forward pass moves them, not the optimizer. Buffers that are computed from the configuration (numbers of positions, rotary frequencies) are
    not persistent, and stay out.

    Args:
        network: whose modules are all there.
    """

    def __init__(self, network: nn.Module) -> None:
        self._owners = [(name, module) for name, module in network.named_modules() if _persistent_keys(module)]

    def copy(self) -> dict[str, Tensor]:
        """What they hold now, by dotted name; later forward passes do not change it."""
        return {name: buffer.detach().clone() for name, _, _, buffer in self._each()}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Put back what `copy` returned.

        Args:
            kept: by dotted name; it may hold other tensors too.

        Raises:
            RunError: a buffer of the network is not among them.
        """
        with torch.no_grad():
            for name, module, key, buffer in self._each():
                if name not in kept:
                    raise RunError(
                        f"nothing was kept of {name}, which the network holds beside its weights: {nearest(name, kept)}",
                        "start again in another folder: the checkpoint is of another network, or of an older version",
                    )
                if buffer.shape == kept[name].shape:
                    buffer.copy_(kept[name])
                else:
                    module._buffers[key] = kept[name].to(buffer.device).clone()

    def _each(self) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        for name, module in self._owners:
            for key in _persistent_keys(module):
                buffer = module._buffers[key]
                if buffer is not None:  # a batch norm without statistics has a name for them and nothing there
                    yield f"{name}.{key}" if name else key, module, key, buffer


def _persistent_keys(module: nn.Module) -> list[str]:
    return [key for key in module._buffers if key not in module._non_persistent_buffers_set]


@contextlib.contextmanager
def keep_buffers(network: nn.Module) -> Iterator[None]:
    """After the context the persistent buffers hold what they held before, whatever went through the network in train mode."""
    buffers = Buffers(network)
    before = buffers.copy()
    try:
        yield
    finally:
        buffers.restore(before)
