"""The report, as a verb."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import RunError
from luthier.core.run import Run
from luthier.core.study import Study


def report(run: str | Path) -> Path:
    """Write the report.html of a run, or of a study, again from its folder.

    Raises:
        RunError: it is neither, or it has no verdict yet.
    """
    from luthier.delivery.report import write_report
    from luthier.delivery.study import write_study

    source = Run.open(Path(run))
    if source.events_named("searching"):
        study = Study(source.folder)
        if study.winner is None:
            raise RunError(f"{source.folder} has no winner yet", source.how_to_finish())
        return write_study(study)
    if source.verdict is None:
        raise RunError(f"{source.folder} has no verdict yet", source.how_to_finish())
    return write_report(source)
