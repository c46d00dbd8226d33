"""The learning rate as a pure function of the done share of the run."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from luthier.core.component import Component


class _Warm(Component):
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the run over which the rate rises from zero to `optimizer.lr`.")

    def _rising(self, share: float) -> float | None:
        return share / self.warmup if share < self.warmup else None


class Constant(_Warm):
    """The full rate after the warm-up."""

    kind: Literal["constant"] = "constant"

    def factor(self, share: float) -> float:
        """What the rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._rising(share)
        return 1.0 if rising is None else rising


class Linear(_Warm):
    """Straight down to zero after the warm-up."""

    kind: Literal["linear"] = "linear"

    def factor(self, share: float) -> float:
        """What the rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._rising(share)
        return (1 - share) / (1 - self.warmup) if rising is None else rising


class Cosine(_Warm):
    """Half a cosine down to zero after the warm-up (Loshchilov & Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"

    def factor(self, share: float) -> float:
        """What the rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._rising(share)
        return (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))) / 2 if rising is None else rising


class WarmupStableDecay(_Warm):
    """The full rate, then straight down to zero over the last part (Hu et al. 2024, section 4)."""

    kind: Literal["wsd"] = "wsd"
    decay: float = Field(default=0.2, gt=0, le=1, description="Share of the run, at its end, over which the rate falls to zero.")

    def factor(self, share: float) -> float:
        """What the rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._rising(share)
        return min(1.0, (1 - share) / self.decay) if rising is None else rising


def share_done(step: int, total: int) -> float:
    """How much of the run is done in the middle of a step counted from 0; never 0 and never 1."""
    return (step + 1) / (total + 1)
