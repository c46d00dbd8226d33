"""Write what makes a run resumable: experiment, splits, findings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.core.interfaces import Reporter
from luthier.core.run import Run, write_file
from luthier.core.words import plural
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.choice import Choice
from luthier.pilot.stages.metric import note_metric


def create_or_take_over(folder: Path) -> Run:
    """The folder of a new run; one that was only planned is taken over."""
    if (folder / "experiment.yaml").is_file() and Run(folder).events_named("planned_only") and not Run(folder).events_named("started"):
        for name in ("events.jsonl", "findings.jsonl", "rejected.jsonl", "experiment.yaml"):
            (folder / name).unlink(missing_ok=True)
        return Run(folder)
    return Run.create(folder)


def describe_split(spec: Data) -> str:
    """How the rows were divided, for a person."""
    if spec.validation and spec.test:
        return "given"
    if spec.time:
        return f"by {spec.time}: the last rows (of times the newest) are tested"
    same_group = f"rows of the same {spec.group}, and " if spec.group else ""
    return ("by class, " if family_of(spec.task).kind.classes or spec.normal else "by chance, ") + f"{same_group}near-duplicates together"


def begin_run(
    place: Run,
    experiment: Experiment,
    dataset: Dataset,
    choices: Sequence[Choice],
    reporter: Reporter,
    budget: float | None,
    force: bool,
    stay: Sequence[str] | None = None,
) -> None:
    """Write what makes the run resumable, before anything heavy is imported.

    Args:
        place: the run.
        experiment: as it begins.
        dataset: its rows.
        choices: made for it, with their reasons.
        reporter: shows progress.
        budget: seconds for everything.
        force: go on after a no-go.
        stay: where it may become a search, the paths that it leaves alone; None where it may not.
    """
    split = {part: [[record.source, record.row] for record in rows] for part, rows in dataset.records.items()}
    place.write_json(
        "splits.json",
        {"how": describe_split(dataset.spec), "seed": dataset.spec.split_seed, "rows": split},
    )
    write_file(
        place.folder / "rejected.jsonl", "".join(json.dumps(vars(row), ensure_ascii=False, default=str) + "\n" for row in dataset.rejected)
    )
    place.event("created", seed=experiment.seed, budget=budget, stay=stay, choices=[vars(choice) for choice in choices])
    note_metric(place, experiment)
    if force:
        place.event("forced")
    place.add_findings(*dataset.findings)
    write_file(place.folder / "experiment.yaml", experiment.yaml())
    sizes = ", ".join(f"{len(rows):,} {part}" for part, rows in dataset.records.items())
    reporter.say(f"{dataset.reason}; {sizes}" + (f"; {plural(len(dataset.labels), 'class')}" if dataset.labels else ""))
    for finding in dataset.findings:
        reporter.finding(finding)
    for choice in choices:
        reporter.say(f"  {choice.path} = {choice.value}  ({choice.reason})")
