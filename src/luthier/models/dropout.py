"""Dropout whose mask is a pure function of (seed, step, example, site, position)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.randomness import mix

LEVELS = 1 << 16
TABLES = ("pos_dropout",)
"""What transformers calls dropout over a table that all rows read, not over the rows themselves."""
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))


def _signed(values: np.ndarray) -> np.ndarray:
    return (values & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


@cache
def _columns(count: int) -> Tensor:
    return torch.from_numpy(_signed(mix("dropout column", np.arange(count))))


def _number(value: int) -> Tensor:
    """As torch takes it without making a tensor of it and converting that, each time."""
    return torch.tensor(value, dtype=torch.int32)


_SHIFTS = tuple((_number(shift), _number((1 << (32 - shift)) - 1)) for shift in (15, 16))
_FACTORS = tuple(map(_number, _MULTIPLIERS))


def _kept(keys: Tensor, width: int, probability: float) -> Tensor:
    """Which of `width` entries a row keeps; it depends on the row's key and the entry's place alone.

    The words are hashed with the two-round multiply-xorshift of "hash prospector" (lowbias32) and each gives two
    16-bit draws, so the probability is met to 1 / 65,536.

    Args:
        keys: one 32-bit integer a row, # (…,) int32
        width: entries in a row.
        probability: share that is dropped, 0 ≤ p < 1.

    Returns:
        1 where the entry is kept, else 0, # (…, width rounded up to an even number) int16
    """
    word = keys.unsqueeze(-1) ^ _columns(-(-width // 2)).to(keys.device)
    for factor, (shift, positive) in zip(_FACTORS, _SHIFTS, strict=True):
        word *= factor
        word ^= (word >> shift).bitwise_and_(positive)
    return word.view(torch.int16).ge_(round(probability * LEVELS) - LEVELS // 2)


def scale_kept(probability: float) -> float:
    """What the kept entries are multiplied by, so that the mean stays."""
    return LEVELS / (LEVELS - round(probability * LEVELS))


def kept_scale(keys: Tensor, width: int, probability: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0, or what keeps the mean, # (…, width); see `_kept` for the other arguments."""
    kept, scale = _kept(keys, width, probability), scale_kept(probability)
    if dtype.itemsize == kept.itemsize:  # the one number's bits in place of the ones: a conversion costs ten times that
        return kept.mul_(_bits(scale, dtype)).view(dtype)[..., :width].contiguous()
    return kept[..., :width].to(dtype).mul_(scale)


def _bits(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value, dtype=dtype).view(torch.int16))


@dataclass
class Chance:
    """Where the dropout of a model finds the keys of the rows that are passing through.

    Args:
        tokens: a key for each token, # (tokens,) int32
        examples: a key for each example, # (examples,) int32
        laid: how many rows the tokens are laid out in, all as long; 0 where they are a stream.
        tables: what a key for each row of a table is made of: the same for every micro-batch of a step.
    """

    tokens: Tensor | None = None
    examples: Tensor | None = None
    laid: int = 0
    tables: tuple[int | str, ...] = ()

    @contextlib.contextmanager
    def keyed(self, seed: int, step: int, index: Tensor, lengths: Tensor) -> Iterator[None]:
        """Set the keys of a micro-batch for the time of its forward pass.

        Args:
            seed: of the experiment.
            step: counted from 0.
            index: which examples, # (examples,)
            lengths: tokens of each, # (examples,)
        """
        device = index.device
        examples = mix(seed, "dropout", step, index.cpu().numpy())
        sizes = lengths.cpu().numpy()
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        tokens = mix(np.repeat(examples, sizes), within)
        self.examples = torch.from_numpy(_signed(examples)).to(device)
        self.tokens = torch.from_numpy(_signed(tokens)).to(device)
        self.tables = (seed, "dropout table", step)
        try:
            yield
        finally:
            self.tokens = self.examples = None
            self.tables = ()

    @contextlib.contextmanager
    def laid_out(self, source: Tensor, rows: int) -> Iterator[None]:
        """For the time of the context, the tokens are those of padded rows, or of another stream.

        Args:
            source: where each place takes its token from, # (rows × length,)
            rows: how many; 0: a stream.
        """
        before, self.laid = self.tokens, rows
        if self.tokens is not None:
            self.tokens = self.tokens.index_select(0, source)
        try:
            yield
        finally:
            self.tokens, self.laid = before, 0

    def rows(self, count: int) -> Tensor:
        """The keys that fit `count` rows: tokens, examples, or each head's view of padded rows, # (rows × heads × length,)"""
        for keys in (self.tokens, self.examples):
            if keys is not None and len(keys) == count:
                return keys
        if self.laid and self.tokens is not None and count % len(self.tokens) == 0:
            return by_head(self.tokens, self.laid, count // len(self.tokens)).flatten()
        raise RuntimeError(f"dropout met {count} rows, but no keys were set for that many")

    def table(self, count: int) -> Tensor:
        """A key for each row of a table that all examples read, # (count,)"""
        if not self.tables:
            raise RuntimeError("dropout met a table, but no keys were set")
        return torch.from_numpy(_signed(mix(*self.tables, np.arange(count))))


@cache
def site_key(name: str) -> int:
    """The constant that keeps two places in a model from drawing the same mask."""
    return int(_signed(mix("dropout site", name))[()])


@cache
def _head_keys(heads: int) -> Tensor:
    return torch.tensor([site_key(f"head {head}") for head in range(heads)], dtype=torch.int32)


def by_head(tokens: Tensor, rows: int, heads: int) -> Tensor:
    """Keys that keep the heads of one attention from drawing the same mask, # (rows × length,) → (rows, heads, length)"""
    return tokens.view(rows, 1, -1) ^ _head_keys(heads).to(tokens.device).view(1, -1, 1)


class Dropout(nn.Module):
    """Takes the place of `nn.Dropout`; identity in eval mode.

    Args:
        p: share of entries set to zero, 0 ≤ p < 1.
        chance: where the keys of the passing rows are found.
        site: this place's name.
        table: what passes is a table that all examples read.
    """

    def __init__(self, p: float, chance: Chance, site: str, table: bool = False) -> None:
        super().__init__()
        self.p = p
        self.chance = chance
        self.site = site_key(site)
        self.table = table

    def forward(self, values: Tensor) -> Tensor:
        """Drop entries of `values`, # (…, width) with one row a token or an example."""
        if not self.training or self.p == 0:
            return values
        count = values.numel() // values.shape[-1]
        keys = (self.chance.table(count).to(values.device) if self.table else self.chance.rows(count)) ^ self.site
        return values * kept_scale(keys, values.shape[-1], self.p, values.dtype).view(values.shape)


def attach(model: nn.Module, probability: float) -> Chance:
    """Replace every `nn.Dropout` of a model by ours.

    Args:
        model: changed in place.
        probability: for all of them, except inside low-rank adapters, which bring their own.

    Returns:
        The handle that sets the keys.
    """
    chance = Chance()
    for name, module in list(model.named_modules()):
        if isinstance(module, Dropout):
            module.chance = chance
            continue
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, child_name, Dropout(probability, chance, f"{name}.{child_name}", child_name in TABLES))
    return chance
