"""Prefix sharing for causal models: a prompt that several rows of a micro-batch begin with is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

WORTH = 1 / 32
"""Of the tokens; where rows have less in common, the stream stays as it is."""

LOOKED_AT = 1 / 8
"""What a token costs that does not go through the network again and is only looked at, beside one that does."""

ROUND = 32


@dataclass(frozen=True)
class SharedPrefix:
    """How rows laid end to end become the stream that goes through the network: one in which every shared prefix stands once.

    Args:
        kept: the tokens of the rows that go through the network, in their order, # (kept tokens,)
        position: for each token of the rows' stream, where among those its state is found, # (tokens,)
        padding: so many of the kept come behind the others, and nothing attends to them.
    """

    kept: Tensor
    position: Tensor
    padding: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether every token goes through, in its own place."""
        return len(self.kept) - self.padding == len(self.position)

    def suffix_lengths(self, lengths: Tensor) -> list[int]:
        """How many tokens of each row go through: its last ones, # (rows,) → (rows,)"""
        ends = torch.searchsorted(self.kept[: len(self.kept) - self.padding], lengths.cumsum(0))
        return torch.diff(ends, prepend=ends.new_zeros(1)).tolist()


def shared_tokens(tokens: Tensor, lengths: Tensor) -> np.ndarray:
    """How many tokens each pair of rows would share in one micro-batch, less what attending to them takes, # (rows, rows)

    Args:
        tokens: of all rows, end to end, # (tokens,)
        lengths: of each row, # (rows,)
    """
    rows, order = _sort_rows(tokens, lengths)
    steps = np.array([_common_length(rows[one], rows[other]) for one, other in pairwise(order)], dtype=int)
    shared = np.zeros((len(rows), len(rows)), dtype=int)
    for rank, row in enumerate(order[:-1]):  # two rows have in common what all between them in this order have
        shared[row, order[rank + 1 :]] = np.minimum.accumulate(steps[rank:])
    shared = np.maximum(shared, shared.T)
    return shared - np.ceil(shared * LOOKED_AT).astype(int)


def find_shared_prefix(tokens: Tensor, lengths: Tensor) -> SharedPrefix | None:
    """Find what rows begin with in common, whichever rows those are; None where it is little.

    Args:
        tokens: of all rows, end to end, # (tokens,)
        lengths: of each row, # (rows,)
    """
    rows, order = _sort_rows(tokens, lengths)
    position = np.arange(len(tokens))  # first as tokens of the rows' stream, then as places among those that are kept
    starts = np.cumsum([0, *lengths.tolist()[:-1]])
    for one, other in pairwise(order):
        common = _common_length(rows[one], rows[other])
        position[starts[other] : starts[other] + common] = position[starts[one] : starts[one] + common]
    unique = np.flatnonzero(position == np.arange(len(tokens)))
    if len(unique) > (1 - WORTH) * len(tokens):
        return None
    device = tokens.device
    return SharedPrefix(torch.from_numpy(unique).to(device), torch.from_numpy(np.searchsorted(unique, position)).to(device))


def pad_to_multiple(shared_prefix: SharedPrefix | None, tokens: Tensor) -> SharedPrefix | None:
    """Pad to a multiple of `ROUND` tokens with copies of the first token, which nothing attends to.

    A library that makes its product's code anew for each number of tokens it meets, and keeps it, then meets few numbers.

    Args:
        shared_prefix: of the rows.
        tokens: of all rows, end to end, # (tokens,)
    """
    going = len(tokens) if shared_prefix is None else len(shared_prefix.kept)
    if going % ROUND == 0:
        return shared_prefix
    every = torch.arange(len(tokens), device=tokens.device)
    unique, position = (every, every) if shared_prefix is None else (shared_prefix.kept, shared_prefix.position)
    return SharedPrefix(torch.cat([unique, unique.new_zeros(-going % ROUND)]), position, -going % ROUND)


def expand(states: Tensor, shared_prefix: SharedPrefix | None) -> Tensor:
    """Give every row its own copy of the states of a shared prefix, # (kept tokens, width) → (tokens, width)"""
    if shared_prefix is None:
        return states
    return states[: len(shared_prefix.position)] if shared_prefix.is_identity else states.index_select(0, shared_prefix.position)


def _sort_rows(tokens: Tensor, lengths: Tensor) -> tuple[list[np.ndarray], list[int]]:
    """The rows, and their numbers in the order in which each shares most with the one before it."""
    rows = np.split(tokens.cpu().numpy(), np.cumsum(lengths.tolist())[:-1])
    return rows, sorted(range(len(rows)), key=lambda row: rows[row].tolist())  # of equal rows the first comes first


def _common_length(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two rows begin with in common."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
