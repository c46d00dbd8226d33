"""A forward pass in place of a module's own, while the module trains."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn


def replace_forward(module: nn.Module, dtypes: Collection[torch.dtype], forward: Any, *more: Any) -> None:
    """Put a forward pass before the module's own, which is taken where gradients are not asked for or numbers are of another kind.

    Args:
        module: changed in place.
        dtypes: of the numbers that the new pass is for.
        forward: is given the module, its own forward pass, `more`, and what that pass is given.
        more: what else it needs.
    """
    own = module.forward

    def choose(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        x = arguments[0] if arguments else keywords["hidden_states"]
        if not (self.training and torch.is_grad_enabled() and x.dtype in dtypes):
            return own(*arguments, **keywords)
        return forward(self, own, *more, *arguments, **keywords)

    module.forward = types.MethodType(choose, module)  # pyright: ignore[reportAttributeAccessIssue]


def are_listened_to(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody has hooks on one of some modules, who wants it to be called."""
    return any(each._forward_hooks or each._forward_pre_hooks or each._backward_hooks or each._backward_pre_hooks for each in modules)
