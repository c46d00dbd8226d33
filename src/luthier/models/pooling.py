"""One vector a row from the vectors of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.core.types import Batch


def segment_lengths(batch: Batch) -> Tensor:
    """The lengths of what attends to itself alone: rows, or their windows, # (pieces,)"""
    position = batch.flat.get("place")
    if position is None:
        return batch.lengths
    starts = (position == 0).nonzero()[:, 0]
    return torch.diff(starts, append=torch.tensor([len(position)], device=position.device))


def pool(hidden: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """One vector a row.

    Args:
        hidden: # (tokens, width)
        lengths: # (examples,)
        pooling: cls, mean or last.

    Returns:
        # (examples, width)
    """
    ends = lengths.cumsum(0)
    if pooling == "mean":
        return torch.segment_reduce(hidden, "mean", lengths=lengths, axis=0)
    return hidden.index_select(0, ends - 1 if pooling == "last" else ends - lengths)


def pool_rows(hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
    """One vector a row; that of a row in windows is the mean of theirs.

    Args:
        hidden: # (tokens, width)
        batch: whose tokens these are.
        pooling: cls, mean or last.

    Returns:
        # (examples, width)
    """
    return mean_of_windows(pool(hidden, segment_lengths(batch), pooling), batch)


def mean_of_windows(vectors: Tensor, batch: Batch) -> Tensor:
    """One vector a row, the mean of those of its windows.

    Args:
        vectors: of rows, or of their windows, # (pieces, width)
        batch: whose rows these are.

    Returns:
        # (examples, width)
    """
    if len(vectors) == len(batch):
        return vectors
    windows = torch.bucketize(segment_lengths(batch).cumsum(0), batch.lengths.cumsum(0)).bincount(minlength=len(batch))  # of each row
    return torch.segment_reduce(vectors, "mean", lengths=windows, axis=0)
