"""Features of the rows from the untouched base: what the linear probe is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch

from luthier.core.types import Example
from luthier.experiment import Experiment
from luthier.models.encode import base_views, map_examples
from luthier.models.precision import round_weights_to
from luthier.models.trainable import TrainableNetwork
from luthier.pilot.stages.context import RunContext
from luthier.training.assemble import load_model


class Features:
    """What the untouched base makes of rows; it is in memory for the time of the context.

    Args:
        context: knows the base and the objective.
        experiment: says which network is built on the base.
        tuned: a model on the same base; what its frozen blocks said of a row, they say here too.
    """

    def __init__(self, context: RunContext, experiment: Experiment, tuned: TrainableNetwork | None = None) -> None:
        self.context, self.experiment, self.tuned = context, experiment, tuned
        self.model: Any = None

    def __enter__(self) -> Features:
        self.model = round_weights_to(load_model(self.experiment, self.context.base), getattr(torch, self.experiment.training.dtype)).eval()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.model = None

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        """# (examples, views × width)"""
        self.model.frozen_cache = self.tuned.frozen_cache if self.tuned is not None else None
        context = self.context
        views = map_examples(self.model, context.objective, examples, lambda batch: base_views(self.model, batch), context.signals.poll)
        return views.reshape(len(examples), -1)
