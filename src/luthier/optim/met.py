"""The rows of an embedding that training meets: the others have no gradient, ever, so these alone are kept and moved."""

from __future__ import annotations

import torch
from torch import Tensor


class Met:
    """Which tokens of a vocabulary are met, and where each one's row lies among those that are kept.

    Args:
        tokens: # (met,)
        size: of the vocabulary.
    """

    def __init__(self, tokens: Tensor, size: int) -> None:
        self.tokens = tokens
        places = torch.arange(len(tokens), device=tokens.device)
        self.place = torch.full((size,), -1, device=tokens.device).index_copy_(0, tokens, places)  # -1: never met
        self._zeros: Tensor | None = None  # these two are large and asked for in every step: fresh memory comes page by page
        self._rounded: Tensor | None = None

    def of(self, table: Tensor) -> Tensor:
        """The rows that are met, # (vocabulary, width) → (met, width)"""
        return table.detach().index_select(0, self.tokens)

    def zeros(self, rows: Tensor) -> Tensor:
        """For a step's gradient, the same memory each time, # (met, width)"""
        self._zeros = torch.zeros_like(rows, requires_grad=False) if self._zeros is None else self._zeros.zero_()
        return self._zeros

    def add(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Add a table's sparse gradient to the rows that it is for, # (met, width)"""
        place = self.place.index_select(0, gradient._indices()[0])
        known = place >= 0
        return rows.index_add_(0, place[known], gradient._values()[known].to(rows.dtype))

    def put(self, rows: Tensor, kept: Tensor, tokens: Tensor) -> Tensor:
        """Set the rows to what was kept for the same tokens; those of tokens that nothing was kept for stay as they are.

        Args:
            rows: changed, # (met, width)
            kept: # (tokens, width)
            tokens: that `kept` belongs to.
        """
        place = self.place.index_select(0, tokens)
        known = place >= 0
        return rows.index_copy_(0, place[known], kept[known])

    def publish(self, rows: Tensor, table: Tensor) -> None:
        """Write the rows into the table, rounded to what it computes in."""
        if rows.dtype != table.dtype:
            self._rounded = torch.empty_like(rows, dtype=table.dtype, requires_grad=False) if self._rounded is None else self._rounded
            rows = self._rounded.copy_(rows)
        table.index_copy_(0, self.tokens, rows)
