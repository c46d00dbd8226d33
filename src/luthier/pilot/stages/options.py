"""Turn what a person typed into values: the data specification, the experiment, a time budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.adaptation import ADAPTATIONS
from luthier.core.component import build
from luthier.core.errors import ExperimentError, ModelError
from luthier.core.hub import NAME
from luthier.core.interfaces import Reporter
from luthier.core.words import with_article
from luthier.data.dataset import Dataset
from luthier.data.hub import from_hub
from luthier.data.row_files import names_table
from luthier.data.spec import TEXT_FIELDS, Data
from luthier.evaluation.metric_choice import ALIASES, AUTO
from luthier.experiment import Experiment, number
from luthier.families import family_of
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.families.recognise import load_dataset
from luthier.models.spec import SCRATCH
from luthier.objectives.objective import LENGTHS, fit_length
from luthier.pilot.stages.metric import PATH, settle_metric
from luthier.studies.defaults import starting_experiment

if TYPE_CHECKING:
    from luthier.models.base import Base


def data_spec(
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
        task: a family's name.
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
    typed = {path.removeprefix("data."): text for path, text in parse_assignments(set).items() if path.startswith("data.")}
    changes = {path: text if path in TEXT_FIELDS and number(text) is not None else number(text) for path, text in typed.items()}
    made = build(Data, {**values, **changes}, "data")
    assert isinstance(made, Data)
    name = str(data)
    if not Path(name).exists() and NAME.match(name) and not names_table(Path(name)) and not Path(name.split("/")[0]).exists():
        say(f"{name} is no file here: fetching the data set of that name from the hub")
        return from_hub(made, name)
    return made


def load_experiment(experiment: str | Path | Experiment) -> Experiment:
    """The experiment that is meant: the value itself, a file, or a folder that holds one.

    Raises:
        ExperimentError: it is missing, or not an experiment.
    """
    if isinstance(experiment, Experiment):
        return experiment
    path = Path(experiment)
    return Experiment.load(path / "experiment.yaml" if path.is_dir() else path)


def fill_from_rows(experiment: Experiment, dataset: Dataset, assignments: Sequence[str] = ()) -> Experiment:
    """The experiment with what only the rows can tell.

    Args:
        experiment: as written.
        dataset: its rows.
        assignments: changes as typed: a metric that is a function of the user's has to be among them.

    Raises:
        ExperimentError: the rows are for another task, or the metric does not fit it.
    """
    objective: Any = experiment.objective
    if objective.kind == dataset.spec.task:
        objective = family_of(dataset.spec.task).fit_spec(objective, dataset)
    refuse_other_rows(experiment.model_copy(update={"objective": objective}), dataset)
    return settle_metric(experiment.model_copy(update={"data": dataset.spec, "objective": objective}), dataset, assignments)


def refuse_other_rows(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse an objective of another task than the rows', or with other classes; their order is the person's own.

    Args:
        experiment: as it would be trained.
        dataset: its rows.

    Raises:
        ExperimentError: it is so.
    """
    objective: Any = experiment.objective
    if objective.kind != dataset.spec.task:
        raise ExperimentError(
            f"objective.kind is {objective.kind!r}, but the rows are for {dataset.spec.task}",
            f"set data.task={objective.kind} and name the columns",
        )
    labels = getattr(objective, "labels", ())
    if dataset.labels and set(labels) != set(dataset.labels):
        missing = next((label for label in dataset.labels if label not in labels), None)
        raise ExperimentError(f"objective.labels names {', '.join(map(str, labels[:8]))}, and the rows have {', '.join(dataset.labels[:8])}",
                              f"name all classes of the rows, {missing!r} too, or leave objective.labels out" if missing is not None else "name the classes of the rows, or leave objective.labels out")  # fmt: skip


def parse_seconds(budget: str | float | None) -> float | None:
    """A time span such as "90s", "5m", "1.5h"; a number (not a text) is seconds.

    Raises:
        ExperimentError: it is neither, or a text without a unit.
    """
    if budget is None:
        return None
    text = str(budget).strip().lower()
    scale = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    if isinstance(budget, str) and scale is None and text.replace(".", "", 1).isdigit():
        raise ExperimentError(f"the budget {budget!r} has no unit", f"say which: {text}s (seconds) or {text}m (minutes)? Known: s, m, h")
    try:
        value = float(text[:-1]) * scale if scale else float(text)
    except ValueError:
        value = -1.0
    if isinstance(budget, bool) or not 0 < value < 1e9:
        raise ExperimentError(f"the budget {budget!r} is not a time", "write it as 90s, 5m or 2h")
    return value


def choose_experiment(
    dataset: Dataset,
    base: str | os.PathLike[str] | None,
    assignments: Sequence[str],
    seed: int,
    reporter: Reporter,
    seconds: float | None = None,
) -> tuple[Experiment, list[Choice]]:
    """The default for these rows and this base, with what the person set; a base that is named is fetched now, so that a wrong name fails at once.

    Args:
        dataset: the rows.
        base: its name, or `AUTO` for the one that suits the rows, of those on the machine; None takes the task's own.
        assignments: changes, each "path=value"; a base among them counts more.
        seed: of the experiment.
        reporter: shows progress.
        seconds: for everything; what is chosen should keep to them.
    """
    if not isinstance(base, str | os.PathLike | None):
        raise ExperimentError(f"the base is {base!r}, which names none", "give a name, a folder or a run")
    name = parse_assignments(assignments).get("model.base", None if base is None else os.fspath(base))
    metric = ALIASES.get(asked := parse_assignments(assignments).get(PATH, AUTO), asked)
    if name is None:
        own = resolve_own_base(dataset, reporter)
        given = seconds if own is None else None  # the size of a base is given
        return apply_overrides(*starting_experiment(dataset, own, seed, metric, own=True, seconds=given), assignments, dataset, own, given)
    if name in (SCRATCH, ""):
        others = [item for item in assignments if item.partition("=")[0].strip() != "model.base"]
        return apply_overrides(
            *starting_experiment(dataset, None, seed, metric, scratch=True, seconds=seconds), others, dataset, None, seconds
        )
    if name == AUTO:
        from luthier.pilot.stages.base_choice import choose_base

        suiting, why = choose_base(dataset, seconds, reporter)
        others = [item for item in assignments if item.partition("=")[0].strip() != "model.base"]
        experiment, choices = apply_overrides(*starting_experiment(dataset, suiting, seed, metric), others, dataset, suiting)
        return experiment, [replace(choice, reason=why) if choice.path == "model.base" else choice for choice in choices]
    from luthier.models.store import resolve

    found = resolve(name, reporter.say)
    family = family_of(dataset.spec.task)
    refuse_kind(family, found)
    found = family.read_base(found)
    return apply_overrides(*starting_experiment(dataset, found, seed, metric), assignments, dataset, found)


def refuse_kind(family: Family, base: Base) -> None:
    """Refuse a base of a kind that a family is not trained on.

    Args:
        family: of the rows.
        base: that was named.

    Raises:
        ModelError: it is of another kind.
    """
    if (
        base.bundle is not None
        and base.bundle["base"]
        and base.bundle["task"] != family.name
        and not family_of(base.bundle["task"]).trains_base
    ):
        untouched = base.bundle["base"]["name"]
        raise ModelError(f"{base.name} holds {untouched} as it was: {with_article(base.bundle['task'])} model does not train its base", f"name that one: --base {untouched}")  # fmt: skip
    if family.Spec is not None and base.kind not in family.base_kinds:
        kind = {"encoder": "an encoder", "decoder": "a decoder", "image": "a network for images", "vectors": "a table of word vectors"}
        wanted = " or ".join(kind.get(each, each) for each in family.base_kinds)
        own = f", such as --base {family.base}" if family.base else ""
        raise ModelError(f"{base.name} is {kind.get(base.kind, base.kind)}, and {family.name} is trained on {wanted}",
                         f"name another base{own}: `luthier models list` shows the kinds")  # fmt: skip


def refuse_adaptation(family: Family, base: Base | None, adaptation: str) -> None:
    """Refuse an adaptation that a family's network cannot have, before anything is computed for it.

    Args:
        family: of the rows.
        base: that is trained; None where the network is made from scratch.
        adaptation: its kind, a name of `ADAPTATIONS`.

    Raises:
        ExperimentError: it is so.
    """
    why = family.why_not(base, adaptation)
    if why:
        fitting = [kind for kind in ADAPTATIONS if not family.why_not(base, kind)]
        raise ExperimentError(f"adaptation.kind={adaptation} does not fit {family.name}: {why}",
                              f"leave adaptation.kind out, or set one that fits: {', '.join(fitting)}")  # fmt: skip


def resolve_own_base(dataset: Dataset, reporter: Reporter) -> Base | None:
    """The base that a family trains if nobody says another, where it could start from scratch too, or where the base says what is read of an image; None where there is no doubt.

    Args:
        dataset: the rows.
        reporter: told before it is fetched.
    """
    family = family_of(dataset.spec.task)
    if family.Spec is None or family.base is None or not (family.from_scratch or family.kind.images):
        return None
    from luthier.models.store import resolve

    return resolve(family.base, reporter.say)


def apply_overrides(
    experiment: Experiment,
    choices: list[Choice],
    assignments: Sequence[str],
    dataset: Dataset,
    base: Base | None,
    seconds: float | None = None,
) -> tuple[Experiment, list[Choice]]:
    """Apply what the person set; an adaptation, a head and a size bring their own learning rate and epochs their own batch, unless one was set too."""
    typed = parse_assignments(assignments).get("adaptation.kind", "")
    if typed in ADAPTATIONS:
        refuse_adaptation(family_of(dataset.spec.task), base, typed)
    for item in sorted(assignments, key=lambda item: ".kind" not in item.partition("=")[0]):
        experiment = experiment.set(item)
    paths = parse_assignments(assignments)
    adaptation: Any = experiment.adaptation
    brought: list[Choice] = []
    lowered: list[Choice] = []
    if {"adaptation.kind", "objective.head"} & paths.keys() and "optimizer.lr" not in paths:
        found = family_of(dataset.spec.task).learning_rate_for(base, adaptation.kind, experiment.objective)
        brought.append(Choice("optimizer.lr", *found))
    if "training.epochs" in paths and "training.batch_size" not in paths:
        brought.append(family_of(dataset.spec.task).batch_size(dataset, experiment.training.epochs))
    following = family_of(dataset.spec.task).follow_set(experiment.objective, experiment.training.epochs, [*paths], dataset, base, seconds)
    followed = {choice.path for choice in following}
    brought = [
        *(choice for choice in brought if choice.path not in followed),
        *(choice for choice in following if choice.path not in paths),
    ]
    for choice in brought:
        experiment = experiment.replace(choice.path, choice.value)
    if (
        any(path.startswith("objective.") for path in paths) and experiment.objective.model_dump()["kind"] == dataset.spec.task
    ):  # what only the rows can tell may depend on it
        family = family_of(dataset.spec.task)
        asked = experiment.objective
        experiment = experiment.model_copy(update={"objective": family.fit_spec(asked, dataset)})
        lowered = find_lowered(asked, experiment.objective, paths)
    refuse_other_rows(experiment, dataset)
    experiment = settle_metric(experiment, dataset, assignments)
    if experiment.training.sampling == "balanced" and "objective.class_weights" not in paths and dataset.labels:
        experiment = experiment.replace("objective.class_weights", "none")  # rare rows come more often already
        choices = [choice for choice in choices if choice.path != "objective.class_weights"]
    known = {*paths, *(choice.path for choice in brought)}
    if "adaptation.kind" in paths:
        known |= {choice.path for choice in choices if choice.path.startswith("adaptation.")}  # of the one that is not taken
    told = [*lowered, *(Choice(path, text, "as set") for path, text in paths.items() if path not in {choice.path for choice in lowered})]
    choices = [*(choice for choice in choices if choice.path not in known), *brought, *told]
    experiment, shorter = limit_to_positions(experiment, base)
    return experiment, [*(choice for choice in choices if shorter is None or choice.path != shorter.path), *([shorter] if shorter else [])]


def find_lowered(asked: Any, fitted: Any, paths: Collection[str]) -> list[Choice]:
    """The numbers of an objective that were set and that the rows do not give, such as a vocabulary: what they give, and what was asked for.

    Args:
        asked: the objective as it was set.
        fitted: the same one, fitted to the rows.
        paths: that were set, such as "objective.vocabulary".
    """
    pairs = {f"objective.{name}": (value, getattr(fitted, name)) for name, value in asked.model_dump().items()}
    return [
        Choice(path, now, f"{was:,} were asked for, and the training rows give no more than {now:,}")
        for path, (was, now) in pairs.items()
        if path in paths and type(was) is int and type(now) is int and now < was
    ]


def limit_to_positions(experiment: Experiment, base: Base | None) -> tuple[Experiment, Choice | None]:
    """The experiment with no more tokens read at once than its base can place; what was changed for that, None where nothing was.

    Args:
        experiment: as written.
        base: that is trained; None where the network is made from scratch, or the base is not known yet.
    """
    spec: Any = experiment.objective
    fitted: Any = fit_length(spec, base.positions if base is not None else 0)
    if fitted == spec:
        return experiment, None
    assert base is not None
    name = next(name for name in LENGTHS if hasattr(spec, name))
    why = f"{base.name} can place {base.positions:,} tokens of a text, and {getattr(spec, name):,} were to be read at once"
    return experiment.model_copy(update={"objective": fitted}), Choice(f"objective.{name}", base.positions, why)


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Path → what was typed for it; of several the last counts."""
    return {path.strip(): text.strip() for path, _, text in (item.partition("=") for item in assignments)}


def default_experiment(
    data: str | Path, set: Sequence[str], reporter: Reporter, *, target: str | None, input: str | Sequence[str] | None,
    base: str | os.PathLike[str] | None,
    task: str | None, seed: int, seconds: float | None = None,
) -> tuple[Experiment, Dataset, list[Choice]]:  # fmt: skip
    """Where a search starts from: an experiment that is written down, or one that is chosen for the rows; with the rows, and the reasons."""
    if Path(data).suffix in (".yaml", ".yml") or (Path(data) / "experiment.yaml").is_file():
        experiment = load_experiment(data).set(*set).model_copy(update={"environment": {}})
        reporter.stage("data", experiment.data.path)
        dataset = load_dataset(experiment.data)
        choices = family_of(dataset.spec.task).metric(dataset, AUTO)[:1] if experiment.training.metric == AUTO else []
        return fill_from_rows(experiment, dataset, set), dataset, choices
    reporter.stage("data", str(data))
    dataset = load_dataset(data_spec(data, target=target, input=input, task=task, set=set, say=reporter.say))
    experiment, choices = choose_experiment(dataset, base, set, seed, reporter, seconds)
    return experiment, dataset, choices
