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
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))


def _signed(values: np.ndarray) -> np.ndarray:
    return (values & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


@cache
def _columns(count: int) -> Tensor:
    return torch.from_numpy(_signed(mix("dropout column", np.arange(count))))


def keep_mask(keys: Tensor, width: int, probability: float) -> Tensor:
    """Which of `width` entries a row keeps; it depends on the row's key and the entry's place alone.

    The words are hashed with the two-round multiply-xorshift of "hash prospector" (lowbias32) and each gives two
    16-bit draws, so the probability is met to 1 / 65,536.

    Args:
        keys: one 32-bit integer a row, # (…,) int32
        width: entries in a row.
        probability: share that is dropped, 0 ≤ p < 1.

    Returns:
        True where the entry is kept, # (…, width)
    """
    word = keys.unsqueeze(-1) ^ _columns(-(-width // 2)).to(keys.device)
    word *= _MULTIPLIERS[0]
    word ^= (word >> 15) & 0x1FFFF
    word *= _MULTIPLIERS[1]
    word ^= (word >> 16) & 0xFFFF
    draws = word.view(torch.int16)[..., :width]
    return draws >= round(probability * LEVELS) - LEVELS // 2


def scale_kept(probability: float) -> float:
    """What the kept entries are multiplied by, so that the mean stays."""
    return LEVELS / (LEVELS - round(probability * LEVELS))


def kept_scale(keys: Tensor, width: int, probability: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0, or what keeps the mean; see `keep_mask` for the arguments."""
    return keep_mask(keys, width, probability).to(dtype).mul_(scale_kept(probability))


@dataclass
class Chance:
    """Where the dropout of a model finds the keys of the rows that are passing through.

    Args:
        tokens: a key for each token, # (tokens,) int32
        examples: a key for each example, # (examples,) int32
    """

    tokens: Tensor | None = None
    examples: Tensor | None = None

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
        try:
            yield
        finally:
            self.tokens = self.examples = None

    def rows(self, count: int) -> Tensor:
        """The keys that fit `count` rows: tokens, or examples."""
        for keys in (self.tokens, self.examples):
            if keys is not None and len(keys) == count:
                return keys
        raise RuntimeError(f"dropout met {count} rows, but no keys were set for that many")


@cache
def site_key(name: str) -> int:
    """The constant that keeps two places in a model from drawing the same mask."""
    return int(_signed(mix("dropout site", name))[()])


class Dropout(nn.Module):
    """Takes the place of `nn.Dropout`; identity in eval mode.

    Args:
        p: share of entries set to zero, 0 ≤ p < 1.
        chance: where the keys of the passing rows are found.
        site: this place's name.
    """

    def __init__(self, p: float, chance: Chance, site: str) -> None:
        super().__init__()
        self.p = p
        self.chance = chance
        self.site = site_key(site)

    def forward(self, values: Tensor) -> Tensor:
        """Drop entries of `values`, # (…, width) with one row a token or an example."""
        if not self.training or self.p == 0:
            return values
        keys = self.chance.rows(values[..., 0].numel()) ^ self.site
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
                setattr(module, child_name, Dropout(probability, chance, f"{name}.{child_name}"))
    return chance
