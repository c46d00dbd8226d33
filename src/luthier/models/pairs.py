"""Rows that come in pairs, a source and a target, laid out for attention: each side end to end in one stream, padded only where rows look at each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SIMILAR = 0.6
SHORT = 16
MOST = 8192
"""Rows share a padded group when each of their sides differs by at most 16 tokens or two fifths, up to 8,192 padded tokens a side."""


@dataclass(frozen=True)
class Side:
    """One side of some rows, padded to the longest of them.

    Args:
        rows: how many.
        length: of the longest.
        source: where each place takes its token from in the stream; padding repeats a row's last token, # (rows × length,)
        place: where each of the tokens stands among all places, # (tokens,)
        seen: which places hold a token, # (rows, 1, 1, length), or None where all do.
    """

    rows: int
    length: int
    source: Tensor
    place: Tensor
    seen: Tensor | None

    def heads(self, stream: Tensor, heads: int) -> Tensor:
        """From the stream into padded rows, # (tokens, heads × width) → (rows, heads, length, width)"""
        return stream.index_select(0, self.source).view(self.rows, self.length, heads, -1).transpose(1, 2)

    def tokens(self, rows: Tensor) -> Tensor:
        """Back, without the padding, # (rows, heads, length, width) → (tokens, heads × width)"""
        return rows.transpose(1, 2).reshape(self.rows * self.length, -1).index_select(0, self.place)


@dataclass(frozen=True)
class Layout:
    """How pairs go through attention.

    Args:
        groups: of rows of similar length, the source's and the target's side of each.
        back: for the source and for the target, where each token of the stream is found among the groups' tokens end to end; None where in its place.
    """

    groups: Sequence[tuple[Side, Side]]
    back: tuple[Tensor | None, Tensor | None]


def lay_out(source: Tensor, target: Tensor) -> Layout:
    """Group rows of similar lengths.

    Args:
        source: tokens of each row's source, # (rows,)
        target: tokens of each row's target, # (rows,)
    """
    sizes = list(zip(source.tolist(), target.tolist(), strict=True))
    parts: list[list[int]] = []
    for row in sorted(range(len(sizes)), key=lambda row: (sizes[row][0] + sizes[row][1], sizes[row])):
        if parts and _fits(row, parts[-1], sizes):
            parts[-1].append(row)
        else:
            parts.append([row])
    parts = [sorted(part) for part in parts]
    groups = [(_side(part, source), _side(part, target)) for part in parts]
    return Layout(groups, (_back(groups, 0), _back(groups, 1)))


def _fits(row: int, members: list[int], sizes: list[tuple[int, int]]) -> bool:
    """Whether a row joins a group without much padding."""
    for side in (0, 1):
        lengths = [sizes[member][side] for member in (*members, row)]
        shortest, longest = min(lengths), max(lengths)
        if shortest < min(longest - SHORT, SIMILAR * longest) or longest * len(lengths) > MOST:
            return False
    return True


def _side(members: list[int], lengths: Tensor) -> Side:
    starts = (lengths.cumsum(0) - lengths)[members][:, None]
    own = lengths[members][:, None]
    columns = torch.arange(int(own.max()), device=lengths.device)[None]
    there = columns < own
    source = (starts + columns.minimum(own - 1)).flatten()
    mask = None if bool(there.all()) else there[:, None, None, :]
    return Side(len(members), columns.shape[1], source, there.flatten().nonzero()[:, 0], mask)


def _back(groups: Sequence[tuple[Side, Side]], side: int) -> Tensor | None:
    if len(groups) == 1:
        return None  # its rows stand in their order
    return torch.cat([group[side].source.index_select(0, group[side].place) for group in groups]).argsort()
