"""Tables of defaults by how much there is to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVarTuple

Rest = TypeVarTuple("Rest")


def row_for(table: Sequence[tuple[int, *Rest]], size: float) -> tuple[*Rest]:
    """What a table says of a size: of the first row whose limit lies above it, what stands behind the limit."""
    return next(tuple(rest) for limit, *rest in table if size < limit)  # type: ignore[return-value]
