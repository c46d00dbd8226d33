"""What a person typed or wrote down, as values: the specification of the rows, the experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luthier.core.component import build
from luthier.core.errors import ExperimentError
from luthier.core.hub import NAME
from luthier.data.hub import from_hub
from luthier.data.intake import Intake
from luthier.data.rows import ENDINGS
from luthier.data.spec import Data
from luthier.experiment import Experiment, number


def asked_for(
    data: str | Path,
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    task: str | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    set: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Data:
    """The data's specification; what was not given is left to be inferred.

    Args:
        data: a file of rows, a folder, or a data set of the hub (owner/name).
        target: the column to be learned.
        input: the column or columns that are read (a list, or names with commas).
        task: classification or chat.
        validation: a file of validation rows.
        test: a file of test rows.
        set: changes to the experiment, each "path=value"; those of the data count here, for they come before reading.
        say: told before something is fetched.

    Raises:
        DataError: it is neither here nor to be had from the hub.
        ExperimentError: a field that does not exist, or a value that does not fit.
    """
    columns = tuple(name.strip() for name in (input.split(",") if isinstance(input, str) else input or ()))
    given: dict[str, Any] = {"path": str(data), "target": target, "input": columns, "task": task, "validation": validation, "test": test}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value not in (None, ())}
    changes = {
        path.removeprefix("data."): number(text) for path, _, text in (item.partition("=") for item in set) if path.startswith("data.")
    }
    if "encoding" in changes:
        changes["encoding"] = str(changes["encoding"])
    made = build(Data, {**values, **changes}, "data")
    assert isinstance(made, Data)
    name = str(data)
    if not Path(name).exists() and NAME.match(name) and Path(name).suffix.lower() not in ENDINGS and not Path(name.split("/")[0]).exists():
        say(f"{name} is no file here: fetching the data set of that name from the hub")
        return from_hub(made, name)
    return made


def written(experiment: str | Path | Experiment) -> Experiment:
    """The experiment that is meant: the value itself, a file, or a folder that holds one.

    Raises:
        ExperimentError: it is missing, or not an experiment.
    """
    if isinstance(experiment, Experiment):
        return experiment
    path = Path(experiment)
    return Experiment.load(path / "experiment.yaml" if path.is_dir() else path)


def filled(experiment: Experiment, intake: Intake) -> Experiment:
    """The experiment with what only the rows can tell."""
    objective: Any = experiment.objective
    if intake.labels and not objective.labels:
        objective = objective.model_copy(update={"labels": intake.labels})
    if objective.kind != intake.spec.task:
        raise ExperimentError(
            f"objective.kind is {objective.kind!r}, but the rows are for {intake.spec.task}",
            f"set data.task={objective.kind} and name the columns",
        )
    return experiment.model_copy(update={"data": intake.spec, "objective": objective})
