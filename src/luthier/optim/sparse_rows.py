"""Sparse master weights of an embedding: only rows of tokens that occur in training get gradients, so only these are kept in fp32 and moved."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.core.errors import ExperimentError

MOST_NAMED = 5
"""Tokens that an error names at most."""


class SparseRows:
    """Which rows of an embedding are kept, and where each token's row lies among them.

    Args:
        tokens: # (met,)
        size: of the vocabulary.
        name: the embedding's, for errors.
    """

    def __init__(self, tokens: Tensor, size: int, name: str = "the embedding") -> None:
        self.tokens, self.name = tokens, name
        places = torch.arange(len(tokens), device=tokens.device)
        self.position = torch.full((size,), -1, device=tokens.device).index_copy_(0, tokens, places)  # -1: never met
        self._zeros: Tensor | None = None  # these two are large and asked for in every step: fresh memory comes page by page
        self._rounded: Tensor | None = None

    def select(self, table: Tensor) -> Tensor:
        """The rows that are met, # (vocabulary, width) → (met, width)"""
        return table.detach().index_select(0, self.tokens)

    def zeros(self, rows: Tensor) -> Tensor:
        """For a step's gradient, the same memory each time, # (met, width)"""
        self._zeros = torch.zeros_like(rows, requires_grad=False) if self._zeros is None else self._zeros.zero_()
        return self._zeros

    def add(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Add a table's sparse gradient to the rows that it is for, # (met, width)

        Raises:
            ExperimentError: a row that is not kept would have to move.
        """
        tokens, values = gradient._indices()[0], gradient._values()
        positions = self.position.index_select(0, tokens)
        known = positions >= 0
        indices = positions[known]
        if len(indices) < len(positions):
            self._refuse_strangers(tokens[~known], values[~known])
            values = values[known]
        return rows.index_add_(0, indices, values.to(rows.dtype))

    def _refuse_strangers(self, tokens: Tensor, gradients: Tensor) -> None:
        """Raise where tokens whose rows are not kept have a gradient that is not zero."""
        moved = tokens[gradients.ne(0).any(1)].unique().tolist()
        if not moved:
            return
        listing = ", ".join(map(str, moved[:MOST_NAMED])) + (f" and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else "")
        raise ExperimentError(
            f"{self.name} has a gradient at token {listing}, but only the rows of tokens that the training examples hold are kept ({len(self.tokens):,} of {len(self.position):,}): the others would silently stay as they are",
            "let the objective name the tokens that `collate` may draw, in its attribute `drawn_tokens`",
        )

    def restore(self, rows: Tensor, kept: Tensor, tokens: Tensor) -> Tensor:
        """Set the rows to what was kept for the same tokens; those of tokens that nothing was kept for stay as they are.

        Args:
            rows: changed, # (met, width)
            kept: # (tokens, width)
            tokens: that `kept` belongs to.
        """
        positions = self.position.index_select(0, tokens)
        known = positions >= 0
        return rows.index_copy_(0, positions[known], kept[known])

    def copy_to_table(self, rows: Tensor, table: Tensor) -> None:
        """Write the rows into the table, rounded to what it computes in."""
        if rows.dtype != table.dtype:
            self._rounded = torch.empty_like(rows, dtype=table.dtype, requires_grad=False) if self._rounded is None else self._rounded
            rows = self._rounded.copy_(rows)
        table.index_copy_(0, self.tokens, rows)
