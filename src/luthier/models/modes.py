"""Train and eval mode, module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a whole model into eval mode, and every module back into its own mode afterwards.

    A frozen block is in eval mode while the rest is not, so one flag for the model would not do.
    """
    modules = _all_modules(model)
    modes = [module.training for module in modules]
    _set_modes(modules, [False] * len(modules))
    try:
        yield
    finally:
        _set_modes(modules, modes)


def _all_modules(model: nn.Module) -> list[nn.Module]:
    """A model and all that lies inside it; torch's own `modules` also makes a name of each, which takes ten times as long."""
    modules = [model]
    for module in modules:
        modules += [each for each in module._modules.values() if each is not None]
    return modules


def _set_modes(modules: Sequence[nn.Module], modes: Sequence[bool]) -> None:
    """Set the mode of those that are in the other one: torch's own `train` writes every module's, which takes longer than a small forward pass."""
    for module, mode in zip(modules, modes, strict=True):
        if module.training != mode:
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
