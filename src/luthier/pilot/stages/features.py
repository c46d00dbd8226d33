"""The untouched base's view of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch

from luthier.core.types import Example
from luthier.experiment import Experiment
from luthier.models.encode import TOGETHER, views
from luthier.models.precision import compute_in
from luthier.models.pretrained import PackedNetwork
from luthier.pilot.stages.way import Way
from luthier.training.assemble import load_model


class Features:
    """What the untouched base makes of rows; it is in memory for the time of the context.

    Args:
        way: knows the base and the objective.
        experiment: says which network is built on the base.
        tuned: a model on the same base; what its frozen blocks said of a row, they say here too.
    """

    def __init__(self, way: Way, experiment: Experiment, tuned: PackedNetwork | None = None) -> None:
        self.way, self.experiment, self.tuned = way, experiment, tuned
        self.model: Any = None

    def __enter__(self) -> Features:
        self.model = compute_in(load_model(self.experiment, self.way.base), getattr(torch, self.experiment.training.dtype)).eval()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.model = None

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        """# (examples, views × width)"""
        self.model.prefix = self.tuned.prefix if self.tuned is not None else None
        order = sorted(range(len(examples)), key=lambda position: len(examples[position].tokens))
        found: list[np.ndarray] = []
        part: list[Example] = []
        for place, position in enumerate(order, 1):
            part.append(examples[position])
            if place == len(order) or sum(len(example.tokens) for example in part) >= TOGETHER:
                self.way.signals.poll()
                batch = self.way.objective.collate(part, 0, 0)
                found.append(views(self.model, batch.to(next(self.model.parameters()).device)))
                part = []
        return np.concatenate(found)[np.argsort(np.array(order), kind="stable")].reshape(len(order), -1)
