"""Defaults by how much there is to learn from, and by how much time there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVarTuple

from luthier.families.choice import Choice

FEWEST_BLOCKS = 2
"""Of a network from scratch, unless somebody sets one."""
Rest = TypeVarTuple("Rest")


def row_for(table: Sequence[tuple[int, *Rest]], size: float) -> tuple[*Rest]:
    """What a table says of a size: of the first row whose limit lies above it, what stands behind the limit."""
    return next(tuple(rest) for limit, *rest in table if size < limit)  # type: ignore[return-value]


def affordable_depth(suits: Choice, operations: Callable[[int], float], seconds: float) -> Choice:
    """The deepest network that a budget carries over the text once, at most the one that suits the text.

    Args:
        suits: the blocks that suit it.
        operations: blocks → floating-point operations of one pass.
        seconds: for everything.
    """
    from luthier.models.machine_speed import operations_in

    most: Any = suits.value
    able = [blocks for blocks in range(FEWEST_BLOCKS, most + 1) if operations(blocks) <= operations_in(seconds)]
    if most in able:
        return suits
    return Choice(suits.path, able[-1] if able else FEWEST_BLOCKS, f"what {seconds:.0f} seconds of this machine carry over the text, about")
