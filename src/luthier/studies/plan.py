"""A search before its first trial, as a file that it obeys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from luthier.core.run import Run
from luthier.studies.rungs import Rung
from luthier.studies.space import Dimension, Values


@dataclass(frozen=True)
class SearchRequest:
    """What a search was asked for, as the event `searching` keeps it.

    Args:
        seed: of the proposals.
        fixed: paths that stay as they were set.
        runs: the budget in runs of the default; None where it is a time.
        seconds: the budget as a time.
        trials: so many, whatever they cost.
        space: dimensions as typed.
        sampler: a name in `SAMPLERS`.
        points: to be tried first, as typed.
        workers: trials at work at a time.
        backend: where they work, where there are several.
    """

    seed: int
    fixed: Sequence[str] = ()
    runs: float | None = None
    seconds: float | None = None
    trials: int | None = None
    space: Sequence[str] = ()
    sampler: str = "tpe"
    points: Sequence[str] = ()
    workers: int = 1
    backend: str = "processes"

    @classmethod
    def of(cls, place: Run) -> SearchRequest | None:
        """What a folder was asked for; None where it is no search."""
        requests = place.events_named("searching")
        return cls(**{name: value for name, value in requests[-1].items() if name not in ("event", "at")}) if requests else None

    def note(self, place: Run) -> None:
        """Make the folder a search's."""
        place.event("searching", **vars(self))


@dataclass(frozen=True)
class SearchPlan:
    """A search before its first trial: decided once, then obeyed.

    Args:
        trials: that take part.
        rungs: where they are compared.
        space: what varies.
        stay: hyperparameters that do not, and why.
        sampler: a name in `SAMPLERS`.
        seed: of the proposals.
        runs: what it costs, in whole runs of the default.
        portfolio: points that are tried right after the default.
        ends: how the learning rate falls at the end of the final model, each a branch of it; empty where the schedule is not ours to choose.
    """

    trials: int
    rungs: tuple[Rung, ...]
    space: tuple[Dimension, ...]
    stay: dict[str, str]
    sampler: str
    seed: int
    runs: float
    portfolio: tuple[Values, ...] = ()
    ends: tuple[str, ...] = ()

    def yaml(self) -> str:
        """The plan as a file."""
        whole = {"trials": self.trials, "cost_in_runs": round(self.runs, 3), "sampler": self.sampler, "seed": self.seed,
                 "rungs": [vars(rung) for rung in self.rungs], "space": [dimension.model_dump(mode="json") for dimension in self.space], "stay": self.stay, "portfolio": [*self.portfolio], "ends": [*self.ends]}  # fmt: skip
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def load(cls, path: Path) -> SearchPlan:
        """Read the file."""
        whole = yaml.safe_load(path.read_text())
        space = tuple(Dimension.model_validate(dimension) for dimension in whole["space"])
        rungs = tuple(Rung(**rung) for rung in whole["rungs"])
        return cls(
            whole["trials"],
            rungs,
            space,
            whole["stay"],
            whole["sampler"],
            whole["seed"],
            whole["cost_in_runs"],
            tuple(whole["portfolio"]),
            tuple(whole["ends"]),
        )
