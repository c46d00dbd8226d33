"""Decay branches: while the learning rate is constant, its decay may begin at any step, so several lengths of a run are compared without training it twice.

Source: Hu et al. 2024, "MiniCPM", section 4; Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.studies.rungs import FALL, LAST
from luthier.studies.space import Values, apply_values, value_at

if TYPE_CHECKING:
    from luthier.models.base import Base

STABLE_PHASE: Values = {"schedule.kind": "wsd", "schedule.until": 1.0, "schedule.decay": 1 - LAST, "schedule.shape": "linear"}
"""The schedule of a trial that may have several decay branches."""
SHAPES = ("linear", "cosine")
"""In which the learning rate may fall."""


def may_set_schedule(experiment: Experiment, paths: Sequence[str], base: Base | None = None) -> bool:
    """Whether the search may set the schedule: it is the default one, the person has not set it, and the learning rate need not fall all the way.

    Args:
        experiment: the default.
        paths: about which the person has said something.
        base: of the experiment; None takes it for the task's own.
    """
    objective: Any = experiment.objective
    if not family_of(objective.kind).may_set_schedule(base):
        return False
    is_set = any(path.startswith("schedule.") and path != "schedule.warmup" for path in paths)
    return value_at(experiment, "schedule.kind") == "linear" and not is_set


def with_stable_phase(experiment: Experiment) -> Experiment:
    """The experiment with a learning rate that stays constant until the last trials are compared."""
    return apply_values(experiment, STABLE_PHASE)


def decay_branch(experiment: Experiment, rows: int, share: float, shape: str = "linear") -> tuple[int, Values]:
    """Where a decay branch leaves the stable phase, and the schedule that it has then.

    Args:
        experiment: with a stable phase.
        rows: that are trained on.
        share: of the planned run, at which the branch ends.
        shape: in which its learning rate falls.

    Returns:
        Steps that both have in common, and the branch's values.
    """
    planned = experiment.planned_steps(rows)
    left = max(1, round((LAST if share == 1 else round(share * (1 - FALL), 6)) * planned))
    # half a step behind the last common one, so that rounding cannot let the learning rate fall before it
    begins = (left + 0.5) / (planned + 1)
    until = 1.0 if share == 1 else round(begins / (1 - FALL), 9)
    return left, {"schedule.until": until, "schedule.decay": round(until - begins, 9), "schedule.shape": shape}
