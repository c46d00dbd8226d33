"""The metric that decides: as a person has named it, or as the rows suggest; and whether a function of theirs may be imported."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import ExperimentError
from luthier.core.run import Run
from luthier.data.dataset import Dataset
from luthier.evaluation.metric_choice import AUTO, resolve_metric
from luthier.evaluation.user_metric import allow_function, describe_function, is_function, load_function
from luthier.experiment import Experiment
from luthier.families import family_of

PATH = "training.metric"


def with_metric(assignments: Sequence[str], metric: str | None) -> list[str]:
    """The changes, and among them the metric that was named by itself."""
    return [*assignments, f"{PATH}={metric}"] if metric else [*assignments]


def settle_metric(experiment: Experiment, dataset: Dataset, assignments: Sequence[str] = ()) -> Experiment:
    """The experiment with the metric by its full name.

    Args:
        experiment: with task and classes.
        dataset: its rows.
        assignments: changes as typed: a function that stands among them may be imported, for the person has named it.

    Raises:
        ExperimentError: there is no such metric, it does not fit the task, or it is a function that nobody has named.
    """
    name = experiment.training.metric
    family = family_of(dataset.spec.task)
    metric = (
        str(family.metric(dataset, AUTO)[0].value)
        if name == AUTO
        else resolve_metric(name, family, dataset.labels if family.kind.classes else ())
    )
    if is_function(metric):
        if any(item.partition("=")[0].strip() == PATH and item.partition("=")[2].strip() == name for item in assignments):
            allow_function(metric)
        load_function(metric)
    return experiment if metric == name else experiment.replace(PATH, metric)


def note_metric(place: Run, experiment: Experiment) -> None:
    """Keep in the run's folder that a function may be imported, and which one it was."""
    if is_function(experiment.training.metric):
        place.event("metric_function", **describe_function(experiment.training.metric))


def confirm_metric(place: Run, experiment: Experiment, allow_inexact: bool = False) -> None:
    """Let the function be imported that the run was begun with.

    Args:
        place: the run.
        experiment: of the run.
        allow_inexact: also where its file has changed.

    Raises:
        ExperimentError: the run was not begun with it, or it has changed since.
    """
    name = experiment.training.metric
    if not is_function(name):
        return
    events = [event for event in place.events_named("metric_function") if event["name"] == name]
    if events:
        allow_function(name, events[-1]["folder"])
        if describe_function(name)["sha256"] != events[-1]["sha256"] and not allow_inexact:
            raise ExperimentError(f"the metric {name} has changed since the run began: it would not choose the same",
                                  f"put its file back, start a new run, or go on all the same: `luthier resume {place.folder} --allow-inexact`")  # fmt: skip
    load_function(name)
