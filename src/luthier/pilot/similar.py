"""How near a task is to what each base knows, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.interfaces import NullReporter, Reporter
from luthier.data.sources.frames import Frame
from luthier.experiment import Changes, as_assignments
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.pilot.stages.base_choice import local_bases, require_comparable
from luthier.pilot.stages.base_similarity import BaseSimilarity, compare_base, rank_bases
from luthier.pilot.stages.given_rows import accepts_frames
from luthier.pilot.stages.options import data_spec


@accepts_frames
def similar(
    data: str | Path | Frame,
    bases: Sequence[str] = (),
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    task: str | None = None,
    set: Changes = (),
    reporter: Reporter | None = None,
) -> list[BaseSimilarity]:
    """Read up to 2,000 rows with each base once, and say how much of the task it knows.

    Args:
        data: a file of rows with classes or answers, or a folder; or rows in memory, or "-" for standard input.
        bases: names from `luthier models list`, folders, bundles or hub ids; when empty, the known ones that are on this machine and fit the task.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        set: changes to the experiment: {"optimizer.lr": 1e-4}, or "path=value", one or several.
        reporter: shows progress; None shows nothing.

    Returns:
        The bases, the proposed one first.

    Raises:
        LuthierError: the rows cannot be read, or are for another task.
    """
    reporter = reporter or NullReporter()
    reporter.stage("data", str(data))
    dataset = load_dataset(data_spec(data, target=target, input=input, task=task, set=as_assignments(set), say=reporter.say), checks=())
    fitting = require_comparable(dataset)
    names = bases or local_bases(fitting, reporter)
    return rank_bases([compare_base(resolve(name, reporter.say), dataset, reporter) for name in names])
