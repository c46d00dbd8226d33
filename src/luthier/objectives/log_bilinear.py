"""The loss of GloVe with its gradient: products of vectors and a number for each word, against the logarithms of counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

TABLES = ("words", "contexts", "word_biases", "context_biases")


class _Fitted(torch.autograd.Function):
    """The summed loss with its gradient, computed in one go; the tables' gradients hold the rows that were read, each once."""

    @staticmethod
    def forward(
        ctx: Any, words: Tensor, contexts: Tensor, word_biases: Tensor, context_biases: Tensor, pairs: Mapping[str, Tensor]
    ) -> Tensor:
        first, second = pairs["first"], pairs["second"]
        apart = _apart(words, contexts, word_biases, context_biases, pairs)
        slopes = apart * pairs["weights"]
        total = slopes.dot(apart)
        slopes.mul_(2)
        saved: list[Tensor] = []
        for own, other, table in ((first, second, contexts), (second, first, words)):
            order = own.argsort(stable=True)
            there, counts = own[order].unique_consecutive(return_counts=True)
            begins, factors = counts.cumsum(0) - counts, slopes[order]
            summed = embedding_bag(other[order], table, begins, mode="sum", per_sample_weights=factors)
            alone = torch.segment_reduce(factors, "sum", lengths=counts)
            saved += [there, summed, alone]
        ctx.save_for_backward(*saved)
        ctx.shapes = words.shape, word_biases.shape
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first, at_words, at_word_biases, second, at_contexts, at_context_biases = ctx.saved_tensors
        tables, biases = ctx.shapes

        def sparse(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
            return torch.sparse_coo_tensor(rows[None], values * grads[0], shape, is_coalesced=True, check_invariants=False)

        return (
            sparse(first, at_words, tables),
            sparse(second, at_contexts, tables),
            sparse(first, at_word_biases[:, None], biases),
            sparse(second, at_context_biases[:, None], biases),
            None,
        )


def _apart(words: Tensor, contexts: Tensor, word_biases: Tensor, context_biases: Tensor, pairs: Mapping[str, Tensor]) -> Tensor:
    first, second = pairs["first"], pairs["second"]
    products = (words.index_select(0, first) * contexts.index_select(0, second)).sum(1)
    return products + word_biases.index_select(0, first)[:, 0] + context_biases.index_select(0, second)[:, 0] - pairs["logarithms"]


def summed_loss(network: Any, pairs: Mapping[str, Tensor]) -> Tensor:
    """Weighted squared errors, summed, # ()

    Args:
        network: the four tables.
        pairs: `first` and `second` words, `logarithms` of their counts, and `weights`, # (pairs,) each
    """
    loss: Any = _Fitted.apply(*(getattr(network, name).weight for name in TABLES), pairs)
    return loss


def errors(network: Any, pairs: Mapping[str, Tensor]) -> Tensor:
    """By how much the logarithm of each count is missed, without gradients, # (pairs,)"""
    words, contexts, word_biases, context_biases = (getattr(network, name).weight.detach() for name in TABLES)
    return _apart(words, contexts, word_biases, context_biases, pairs)
