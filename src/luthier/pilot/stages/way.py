"""What the stages of one run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luthier.core.interfaces import Face, Objective
from luthier.core.run import Clock, Run
from luthier.core.types import Example
from luthier.data.intake import Intake
from luthier.experiment import Experiment
from luthier.models.store import Base
from luthier.training.assemble import Prefixes, build
from luthier.training.steps import Work
from luthier.training.watchers import Signals


@dataclass
class Way:
    """A run on its way, and the prepared rows that its stages have in common.

    Args:
        place: the run.
        intake: its rows.
        face: is told.
        clock: seconds since the command began.
        signals: polled between pieces of work.
        base: resolved.
        tokenizer: the base's.
        objective: knows what a batch means.
        prepared: part → examples, as they are asked for.
        prefixes: what was computed of frozen blocks.
        before: seconds that earlier commands of the run took.
    """

    place: Run
    intake: Intake
    face: Face
    clock: Clock
    signals: Signals
    base: Base
    tokenizer: Any
    objective: Objective
    prepared: dict[str, list[Example]] = field(default_factory=dict)
    prefixes: Prefixes = field(default_factory=dict)
    before: float = 0.0

    def examples(self, part: str) -> list[Example]:
        """The examples of train, validation or test, prepared when they are first asked for."""
        if part not in self.prepared:
            self.prepared[part] = self.objective.prepare(self.intake.records[part])
        return self.prepared[part]

    def work(self, experiment: Experiment) -> Work:
        """A fresh model on the base, with what trains it."""
        return build(experiment, self.base, self.objective, self.examples("train"), self.examples("validation"), self.prefixes)

    @property
    def spent(self) -> float:
        """Seconds of this and all earlier commands of the run, also of those that were killed."""
        return self.before + self.clock()
