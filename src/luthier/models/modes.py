"""Train and eval mode, module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a whole model into eval mode, and every module back into its own mode afterwards.

    A frozen block is in eval mode while the rest is not, so one flag for the model would not do.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalises over the rows of a micro-batch, or keeps running statistics of them: batch norm and its kin.

    Args:
        module: alone; what lies inside it is not looked at.
    """
    return isinstance(module, nn.modules.batchnorm._NormBase) or "running_mean" in module._buffers


def mixes_rows(model: nn.Module) -> bool:
    """Whether what a row teaches depends on the rows beside it, for a batch norm is in train mode: such a step must not be split into micro-batches."""
    return any(module.training and isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
