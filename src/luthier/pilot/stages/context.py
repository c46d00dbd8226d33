"""The run context: what the stages of one run share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.cache import Cache
from luthier.core.interfaces import Objective, Reporter
from luthier.core.run import Clock, Run
from luthier.core.types import Example
from luthier.data.dataset import Dataset
from luthier.evaluation.outputs import Outputs
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.training.assemble import FrozenLayerCaches, build
from luthier.training.steps import Work
from luthier.training.watchers import Signals


@dataclass
class RunContext:
    """What the stages of a run share: its folder, rows, base, objective and prepared examples.

    Args:
        run: the run folder.
        dataset: its rows.
        reporter: shows progress.
        clock: seconds since the command began.
        signals: polled between pieces of work.
        base: resolved.
        tokenizer: the base's, or what else makes numbers of a row.
        objective: knows what a batch means.
        prepared: part → examples, as they are asked for.
        frozen_caches: outputs of frozen blocks, by what they were computed from.
        before: seconds that earlier commands of the run took.
        cache: what the objective computes of the untouched model; trials of a search share it.
    """

    run: Run
    dataset: Dataset
    reporter: Reporter
    clock: Clock
    signals: Signals
    base: Base | None
    tokenizer: Any
    objective: Objective
    prepared: dict[str, Sequence[Example]] = field(default_factory=dict)
    frozen_caches: FrozenLayerCaches = field(default_factory=dict)
    before: float = 0.0
    cache: Cache = field(default_factory=Cache)

    def __post_init__(self) -> None:
        if self.cache.folder is None:
            self.cache = Cache(self.run.folder / "cache", self.signals.poll, self.reporter.say)

    @property
    def family(self) -> Family:
        """The family of the rows."""
        return family_of(self.dataset.spec.task)

    @property
    def probes(self) -> bool:
        """Whether a linear model of what the untouched base says is a candidate to ship."""
        return self.outputs is not None

    @property
    def outputs(self) -> Outputs | None:
        """What the outputs of the head mean, where the untouched base can say the same by a linear model; None where it cannot, or there is no base."""
        return self.family.outputs() if self.base is not None else None

    def examples(self, part: str) -> Sequence[Example]:
        """The examples of train, validation or test, prepared when they are first asked for."""
        if part not in self.prepared:
            self.prepared[part] = self.objective.prepare(self.dataset.records[part])
        return self.prepared[part]

    def work(self, experiment: Experiment) -> Work:
        """A fresh model on the base, with what trains it."""
        train, validation = self.examples("train"), self.examples("validation")
        return build(experiment, self.base, self.objective, train, validation, self.frozen_caches, self.cache)

    @property
    def spent(self) -> float:
        """Seconds of this and all earlier commands of the run, also of those that were killed."""
        return self.before + self.clock()
