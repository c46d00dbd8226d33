"""The learning rate as a pure function of the done share of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from luthier.core.component import Component


class _Warm(Component):
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the run over which the learning rate rises from zero to `optimizer.lr`."
    )

    @property
    def end_fraction(self) -> float:
        """Share of the planned run after which it is over."""
        return 1.0

    @property
    def stable_until(self) -> float:
        """Share of the planned run up to which the learning rate stays, only to fall later; 0 where it falls all the way, or never."""
        return 0.0

    def _warmup_factor(self, share: float) -> float | None:
        return share / self.warmup if share < self.warmup else None


class Constant(_Warm):
    """The full learning rate after the warm-up."""

    kind: Literal["constant"] = "constant"

    def factor(self, share: float) -> float:
        """What the learning rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._warmup_factor(share)
        return 1.0 if rising is None else rising


class Linear(_Warm):
    """Straight down to zero after the warm-up."""

    kind: Literal["linear"] = "linear"

    def factor(self, share: float) -> float:
        """What the learning rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._warmup_factor(share)
        return (1 - share) / (1 - self.warmup) if rising is None else rising


class Cosine(_Warm):
    """Half a cosine down to zero after the warm-up (Loshchilov & Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"

    def factor(self, share: float) -> float:
        """What the learning rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._warmup_factor(share)
        return (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))) / 2 if rising is None else rising


class WarmupStableDecay(_Warm):
    """The full learning rate, then down to zero over the last part (Hu et al. 2024, section 4).

    Two runs that differ in `until`, `decay` and `shape` alone are the same until the learning rate begins to fall: one trunk, several ends.
    """

    kind: Literal["wsd"] = "wsd"
    decay: float = Field(default=0.2, gt=0, le=1, description="Share of the run, at its end, over which the learning rate falls to zero.")
    until: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the planned run (`training.epochs`) at which the learning rate has come to zero and the run ends.",
    )
    shape: Literal["linear", "cosine"] = Field(default="linear", description="How the learning rate falls: straight, or as half a cosine.")

    @property
    def end_fraction(self) -> float:
        """Share of the planned run after which it is over."""
        return self.until

    @property
    def stable_until(self) -> float:
        """Share of the planned run up to which the learning rate stays, only to fall later."""
        return max(0.0, self.until - self.decay)

    def factor(self, share: float) -> float:
        """What the learning rate is multiplied by when `share` of the run is done, 0 < share < 1."""
        rising = self._warmup_factor(share)
        left = min(1.0, max(0.0, (self.until - share) / self.decay))
        if rising is not None:
            return min(rising, left)
        return left if self.shape == "linear" else (1 - math.cos(math.pi * left)) / 2


def share_done(step: int, total: int) -> float:
    """How much of the run is done in the middle of a step counted from 0; never 0 and never 1."""
    return (step + 1) / (total + 1)


@dataclass(frozen=True)
class Cut:
    """A step from which on a run has fewer steps left than were planned.

    Args:
        step: steps that were done when it was decided.
        total: steps of the whole run from then on.
        evaluations: whether the validation rows are still scored before the end.
    """

    step: int
    total: int
    evaluations: bool = True


def valid_cuts(total: int, cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts in the order of their steps, without those that would make the run longer again.

    Args:
        total: steps of the run before any cut.
        cuts: in any order; after a run was killed, a cut of before may lie behind a later decision.
    """
    valid: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: cut.step):
        fewer_evaluations = not cut.evaluations and (not valid or valid[-1].evaluations)
        if cut.step <= total and (cut.total < total or (cut.total == total and fewer_evaluations)):
            valid.append(cut)
            total = cut.total
    return valid


def progress(schedule: Any, step: int, planned: int, cuts: Sequence[Cut] = ()) -> tuple[float, float]:
    """How much of the run is done in the middle of a step, and the factor of the learning rate there.

    From a cut on it falls on a straight line from where it stands to zero at the new end. A cut during the warm-up lets it go on rising until it
    meets the line that falls from the full learning rate.

    Args:
        schedule: of the run.
        step: counted from 0.
        planned: steps that the schedule was laid out for.
        cuts: in the order of their steps, each with a smaller total than the one before.
    """
    share, ceiling = _progress(schedule, step, planned, [cut for cut in cuts if cut.total > cut.step])
    return share, min(schedule.factor(share_done(step, planned)), ceiling)


def _progress(schedule: Any, step: int, planned: int, cuts: Sequence[Cut]) -> tuple[float, float]:
    """The done share, and the highest factor that is allowed in a step."""
    past = [cut for cut in cuts if cut.step <= step]
    if not past:
        share = share_done(step, planned)
        return share, 1.0 if share < schedule.warmup else schedule.factor(share)
    *earlier, cut = past
    began, ceiling = _progress(schedule, cut.step, planned, earlier)
    passed = share_done(step - cut.step, cut.total - cut.step)
    return began + (1 - began) * passed, ceiling * (1 - passed)
