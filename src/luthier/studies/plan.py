"""A search before its first trial, as a file that it obeys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from luthier.studies.rungs import Rung
from luthier.studies.space import Dimension, Values


@dataclass(frozen=True)
class Plan:
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
    """

    trials: int
    rungs: tuple[Rung, ...]
    space: tuple[Dimension, ...]
    stay: dict[str, str]
    sampler: str
    seed: int
    runs: float
    portfolio: tuple[Values, ...] = ()

    def yaml(self) -> str:
        """The plan as a file."""
        whole = {"trials": self.trials, "cost_in_runs": round(self.runs, 3), "sampler": self.sampler, "seed": self.seed,
                 "rungs": [vars(rung) for rung in self.rungs], "space": [dimension.model_dump(mode="json") for dimension in self.space], "stay": self.stay, "portfolio": [*self.portfolio]}  # fmt: skip
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read the file."""
        whole = yaml.safe_load(path.read_text())
        space = tuple(Dimension.model_validate(dimension) for dimension in whole["space"])
        rungs = tuple(Rung(**rung) for rung in whole["rungs"])
        return cls(
            whole["trials"], rungs, space, whole["stay"], whole["sampler"], whole["seed"], whole["cost_in_runs"], tuple(whole["portfolio"])
        )
