"""Refuse a time budget that no run can keep, as soon as that is certain: at once, when the rows are read, when the base is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.core.errors import ExperimentError
from luthier.core.run import Run

if TYPE_CHECKING:
    from luthier.models.base import Base

ALWAYS = 4.0
"""Seconds of what every run does at its end and its beginning: Python starts, the report is written."""
WRITTEN = 100e6
"""Bytes of weights that are written and hashed in a second."""
SURE = 0.6
"""A budget is refused only where it is shorter than this share of the time that was reckoned: the small run measures it better."""


def round_up(seconds: float) -> str:
    """A time span as it is typed, a little longer: 40s, 150s, 10m."""
    if seconds < 120:
        return f"{5 * math.ceil(seconds / 5)}s"
    return f"{30 * math.ceil(seconds / 30)}s" if seconds < 600 else f"{math.ceil(seconds / 60)}m"


def check_budget_typed(budget: float | None, force: bool) -> None:
    """Refuse a budget that is too short for any rows, before anything is read.

    Args:
        budget: seconds; None where there is none.
        force: whether a person goes on all the same.

    Raises:
        ExperimentError: it is so.
    """
    if budget is not None and budget <= ALWAYS and not force:
        raise ExperimentError(f"--budget {budget:g}s is too short for any run: to start and to write the report alone take {ALWAYS:g}s",
                              "give --budget 30s or more; nothing was read")  # fmt: skip


def check_budget_after_reading(budget: float | None, force: bool, spent: float) -> None:
    """Refuse a budget that reading the rows has used up, before a base is loaded.

    Args:
        budget: seconds; None where there is none.
        force: whether a person goes on all the same.
        spent: seconds so far.

    Raises:
        ExperimentError: it is so.
    """
    if budget is not None and budget < spent + ALWAYS and not force:
        raise ExperimentError(f"--budget {budget:g}s is too short for these rows: reading them took {spent:.0f}s, and no run takes less than {ALWAYS:g}s beside that",
                              f"give --budget {round_up(2 * (spent + ALWAYS))} or more, or fewer rows (--set data.most_rows=N); nothing was trained")  # fmt: skip


def check_budget_of_base(place: Run, base: Base | None, spent: float) -> None:
    """Refuse a budget in which the trained weights could not even be written, from the size of the base, before it is loaded.

    Args:
        place: of the run; an event is written.
        base: that is trained; None where the network is made from scratch.
        spent: seconds so far, of all commands of the run.

    Raises:
        ExperimentError: it is so.
    """
    created = place.events_named("created")  # a cell of a comparison has none
    budget = created[-1]["budget"] if created else None
    if not budget or base is None or place.events_named("planned") or place.events_named("forced"):
        return
    file = base.folder / "model.safetensors"
    writing = 2 * (file.stat().st_size if file.is_file() else 0) / WRITTEN
    smallest = spent + ALWAYS + writing
    if budget >= SURE * smallest:
        return
    needed = round_up(2 * smallest)
    place.event("budget_too_short", budget=budget, smallest=needed)
    raise ExperimentError(f"--budget {budget:g}s is too short for {base.name}: to write its weights and the report alone takes about {ALWAYS + writing:.0f}s",
                          f"give --budget {needed} or more (and a new --out), or a smaller base; nothing was trained")  # fmt: skip
