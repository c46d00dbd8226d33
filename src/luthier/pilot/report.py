"""The report, as a verb."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import RunError
from luthier.core.run import Run


def report(run: str | Path) -> Path:
    """Write a run's report.html again from its folder.

    Raises:
        RunError: it is not a run, or it has no verdict yet.
    """
    from luthier.delivery.report import write_report

    place = Run.open(Path(run))
    if place.verdict is None:
        raise RunError(f"{run} has no verdict yet", f"finish it: `luthier resume {run}`")
    return write_report(place)
