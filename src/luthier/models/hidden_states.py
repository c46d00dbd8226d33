"""Capture the hidden states after some blocks of a network, without computing the blocks above them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn


class _Enough(Exception):
    """What was wanted has been seen."""


def capture_hidden_states(blocks: nn.ModuleList, depths: Sequence[int], go: Callable[[], object]) -> list[Any]:
    """What the last of so many blocks says, for each depth, in the form that the family has; the blocks above are not asked.

    Args:
        blocks: first to last.
        depths: how many blocks, ascending; 0 is what goes into the first.
        go: sends something through the network, once.
    """
    states: list[Any] = []

    def keep(output: Any) -> None:
        states.append(output)
        if len(states) == len(depths):
            raise _Enough

    def before(block: nn.Module, inputs: Any, keywords: Any) -> None:
        keep(inputs[0] if inputs else keywords["hidden_states"])

    def behind(block: nn.Module, inputs: Any, output: Any) -> None:
        keep(output)

    hooks = [
        blocks[depth - 1].register_forward_hook(behind) if depth else blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        for depth in depths
    ]
    try:
        with contextlib.suppress(_Enough):
            go()
    finally:
        for hook in hooks:
            hook.remove()
    return states


def unwrap_states(told: Any) -> Any:
    """The hidden states in what a block says: some families put them in a tuple."""
    return told[0] if isinstance(told, tuple) else told
