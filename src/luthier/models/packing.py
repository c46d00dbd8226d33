"""Pack rows into one stream without padding, and group rows of similar length for attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.dropout import DropoutKeys
from luthier.models.precision import precise_dtype
from luthier.models.shared_prefix import SharedPrefix

SHORT = 24
SIMILAR = 0.75
GROUP_TOKENS = 4096
"""Rows share a padded group when they differ by at most 24 tokens or a quarter, up to 4,096 tokens a group."""


@dataclass(frozen=True)
class PaddedRows:
    """Parts of rows that go through attention together, padded to the longest of them.

    Args:
        rows: how many.
        length: of the longest.
        source: where each place takes its token from in the stream; padding takes any, # (rows × length,)
        position: the padded position of each token, # (tokens,)
        valid: 1 where there is a token and 0 where there is padding, # (rows, 1, length, 1) or None
    """

    rows: int
    length: int
    source: Tensor
    position: Tensor
    valid: Tensor | None
    _known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def gather(self, stream: Tensor, clear: bool = False) -> Tensor:
        """From the stream in one pass, # (tokens, heads, width) → (rows, heads, length, width).

        Args:
            stream: contiguous.
            clear: set padding to zero (needed for gradients alone: what padding asks for is never used).
        """
        _, heads, width = stream.shape
        source = self._known.get(heads)  # every block asks for the same
        if source is None:
            every = torch.arange(heads, device=stream.device)[:, None]
            source = self._known[heads] = (self.source.view(self.rows, 1, self.length) * heads + every).flatten()
        taken = stream.reshape(-1, width).index_select(0, source).view(self.rows, heads, self.length, width)
        return taken.mul_(self.valid) if clear and self.valid is not None else taken

    def positions(self, heads: int) -> Tensor:
        """Where each token's head stands among all places, # (tokens, heads)"""
        row, column = self.position // self.length, self.position % self.length
        return (row[:, None] * heads + torch.arange(heads, device=self.position.device)) * self.length + column[:, None]


@dataclass(frozen=True)
class AttentionGroup:
    """A padded group of rows of similar length: queries, and keys and values.

    Args:
        queries: the tokens that go through the network; of a row that shares its prefix with another one, only the suffix.
        keys: all tokens of the rows, for keys and values.
        mask: what is added to the scores so that padding is not seen, # (rows, 1, 1, length) or None
        before: of each row, the number of tokens before its first query, # (rows,); None: all tokens are queries
        known: masks that every block of the network needs again.
    """

    queries: PaddedRows
    keys: PaddedRows
    mask: Tensor | None
    before: Tensor | None
    known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def visible(self, window: int) -> Tensor:
        """The keys that each query may attend to: its own and those before it, the last `window` of them where it is not 0.

        Returns:
            # (query length, length), or where suffixes begin at different positions (rows, 1, query length, length)
        """
        asks = torch.arange(self.queries.length, device=self.keys.source.device)[:, None]
        return _visible(asks if self.before is None else asks + self.before[:, None, None, None], self.keys.length, window)

    def additive_mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores so that a query attends to visible keys alone, # (…, query length, length)"""
        if self.before is None:
            return _causal_mask(self.keys.length, window, dtype, self.keys.source.device)
        if ("hidden", window) not in self.known:
            visible = self.visible(window)[:, :, None]
            self.known["hidden", window] = _as_mask(visible, dtype)
        return self.known["hidden", window]


@dataclass(frozen=True)
class RowPlaces:
    """Where the tokens of each row lie in the stream.

    Args:
        starts: where each row's tokens begin among those of all rows, and the last one's end, # (rows + 1,)
        before: of each row, the tokens before the first one that asks: what it shares with another row, # (rows,)
        places: in the stream, of each of these tokens, # (tokens of all rows,)
        stream: tokens of the stream.
        padding: those at its end that no row has.
    """

    starts: Tensor
    before: Tensor
    places: Tensor
    stream: int
    padding: int

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.starts.diff().max())

    @cached_property
    def met(self) -> Tensor:
        """The rows' tokens, those at the same place of the stream behind each other, # (tokens of all rows,)"""
        return self.places.argsort(stable=True)

    @cached_property
    def meetings(self) -> Tensor:
        """Where in `met` those of each place begin, and the last one's end, # (stream + 1,)"""
        return nn.functional.pad(self.places.bincount(minlength=self.stream).cumsum(0), (1, 0))


@dataclass(frozen=True)
class Packing:
    """How a stream is made of rows.

    Args:
        groups: rows of similar length.
        back: for each token of the stream, its position among the groups' queries laid end to end, # (tokens,)
        padding: so many tokens at the end of the stream that nothing attends to; their position is any.
        shared: for each key, of the groups laid end to end, its position in the stream where rows share a prefix, # (…,) or None
        causal: whether a token sees only those before it.
        dropout_keys: the keys for attention's dropout.
        dropout: its probability.
        rows: where the rows' tokens lie.
    """

    groups: Sequence[AttentionGroup]
    back: Tensor
    padding: int
    shared: Tensor | None
    causal: bool
    dropout_keys: DropoutKeys
    dropout: float
    rows: RowPlaces
    _known: dict[tuple[bool, int], Tensor] = field(default_factory=dict, repr=False)

    def scatter(self, values: Sequence[Tensor], clear: bool = False) -> Tensor:
        """Back into the stream in one pass, # a (rows, heads, asking length, width) for each group → (tokens, heads, width)

        Args:
            values: of each group.
            clear: set what nothing looks at to zero (needed for gradients alone).
        """
        heads, width = values[0].shape[1], values[0].shape[3]
        if (True, heads) not in self._known:
            places = _places([group.queries for group in self.groups], heads)
            self._known[True, heads] = places.index_select(0, self.back).flatten()  # (tokens × heads,)
        stream = _end_to_end(values).index_select(0, self._known[True, heads]).view(-1, heads, width)
        if clear and self.padding:
            stream[-self.padding :].zero_()
        return stream

    def sum_gradients(self, values: Sequence[Tensor]) -> Tensor:
        """The gradients of what was looked at, added up where several rows looked at the same, # a (rows, heads, length, width) for each group → (tokens, heads, width)"""
        if self.shared is None:
            return self.scatter(values, clear=True)
        heads, width = values[0].shape[1], values[0].shape[3]
        if (False, heads) not in self._known:
            self._known[False, heads] = _places([group.keys for group in self.groups], heads).flatten()
        gathered = _end_to_end(values).index_select(0, self._known[False, heads]).view(-1, heads, width)
        dtype = precise_dtype(gathered)  # many may be added
        total = torch.zeros(len(self.back), heads, width, dtype=dtype, device=gathered.device)
        return total.index_add_(0, self.shared, gathered.to(dtype)).to(gathered.dtype)


def _end_to_end(values: Sequence[Tensor]) -> Tensor:
    """# a (rows, heads, length, width) for each group → (rows × heads × length of all, width)"""
    width = values[0].shape[-1]
    return torch.cat([value.reshape(-1, width) for value in values]) if len(values) > 1 else values[0].reshape(-1, width)


def _places(sides: Sequence[PaddedRows], heads: int) -> Tensor:
    """Where each token's head stands among those of all groups end to end, # (tokens of all, heads)"""
    offsets, total = [], 0
    for side in sides:
        offsets.append(side.positions(heads) + total)
        total += side.rows * heads * side.length
    return torch.cat(offsets)


def pack(
    lengths: Tensor, causal: bool, dropout_keys: DropoutKeys, dropout: float, dtype: torch.dtype, shared_prefix: SharedPrefix | None = None
) -> Packing:
    """Plan the attention of a stream.

    Args:
        lengths: tokens of each row, in stream order, # (rows,)
        causal: whether a token sees only those before it.
        dropout_keys: the keys for attention's dropout.
        dropout: its probability; it acts in train mode alone.
        dtype: of the scores.
        shared_prefix: how the stream differs from the rows laid end to end.
    """
    device, sizes = lengths.device, lengths.tolist()
    joint = None if shared_prefix is None or shared_prefix.is_identity else shared_prefix
    own = sizes if joint is None else joint.suffix_lengths(lengths)

    def group(members: list[int]) -> AttentionGroup:
        keys = _pad_rows(members, sizes, device, dtype)
        mask = None if causal or keys.valid is None else (1 - keys.valid).transpose(2, 3) * torch.finfo(dtype).min
        if joint is None:
            return AttentionGroup(keys, keys, mask, None)
        keys = replace(keys, source=joint.position.index_select(0, keys.source))
        before = torch.tensor([sizes[row] - own[row] for row in members], device=device)
        return (
            AttentionGroup(_pad_rows(members, own, device, dtype), keys, mask, before)
            if bool(before.any())
            else AttentionGroup(keys, keys, mask, None)
        )

    groups: list[AttentionGroup] = []
    members: list[int] = []
    asking = [row for row in range(len(sizes)) if own[row]]  # where all that a row has is shared, nothing of it is left to do
    for row in sorted(asking, key=lambda row: (-own[row], -sizes[row])):
        if members and not _fits(row, members, own, sizes):
            groups.append(group(members))
            members = []
        members.append(row)
    groups.append(group(members))
    back = torch.cat([group.queries.source.index_select(0, group.queries.position) for group in groups]).argsort()
    shared = None if joint is None else torch.cat([group.keys.source.index_select(0, group.keys.position) for group in groups])
    behind = shared_prefix.padding if shared_prefix is not None else 0
    ends = nn.functional.pad(lengths.cumsum(0), (1, 0))
    places = torch.arange(sum(sizes), device=device) if joint is None else joint.position
    rows = RowPlaces(ends, lengths - torch.tensor(own, device=device), places, len(back) + behind, behind)
    return Packing(groups, torch.cat([back, back.new_zeros(behind)]), behind, shared, causal, dropout_keys, dropout, rows)


def _fits(row: int, members: list[int], own: list[int], sizes: list[int]) -> bool:
    """Whether a row joins a group: padding costs little where rows are short, a call of its own costs much."""
    shortest, longest = (choose(sizes[each] for each in (row, *members)) for choose in (min, max))
    alike = all(least >= min(most - SHORT, SIMILAR * most) for least, most in ((own[row], own[members[0]]), (shortest, longest)))
    return alike and (len(members) + 1) * longest <= GROUP_TOKENS


def _pad_rows(members: list[int], sizes: list[int], device: torch.device, dtype: torch.dtype) -> PaddedRows:
    """The members' tokens, in a stream where rows of these sizes lie end to end."""
    starts, lengths = torch.tensor([0, *sizes]).cumsum(0)[members][:, None], torch.tensor(sizes)[members][:, None]
    columns = torch.arange(int(lengths.max()))[None, :]
    source = starts + columns.minimum(lengths - 1)  # (rows, length)
    there = columns < lengths
    valid = None if bool(there.all()) else there.to(dtype)[:, None, :, None].to(device)
    return PaddedRows(len(members), columns.shape[1], source.flatten().to(device), there.flatten().nonzero()[:, 0].to(device), valid)


@lru_cache(64)
def _causal_mask(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores so that each place looks at what it may see alone, # (length, length)"""
    return _as_mask(_visible(torch.arange(length, device=device)[:, None], length, window), dtype)


@lru_cache(64)
def band_mask(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores so that each place looks at those nearer than `window` on both sides alone, # (length, length)"""
    every = torch.arange(length, device=device)
    return _as_mask((every[:, None] - every).abs() < window, dtype)


def _as_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number where nothing is visible, else 0, # (…,)"""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def _visible(asks: Tensor, length: int, window: int) -> Tensor:
    """Which of so many places those at `asks` look at: themselves and those before them, the last `window` of them where it is not 0, # (…, 1) → (…, length)"""
    looked_at = torch.arange(length, device=asks.device)
    return (looked_at <= asks) & (looked_at > asks - window) if 0 < window < length else looked_at <= asks
