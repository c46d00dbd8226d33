"""Where a run starts from, and what a search varies around it.

The values and their reasons are not here: each family gives its own (`defaults` and `learning_rate` in `families/`; of texts from the tables of
`families/text_defaults.py`). `starting_experiment` makes an experiment of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ExperimentError
from luthier.core.words import with_article
from luthier.data.dataset import Dataset
from luthier.evaluation.metric_choice import AUTO
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.choice import Choice
from luthier.studies.space import Dimension, Space, parse_dimension, value_at

if TYPE_CHECKING:
    from luthier.models.base import Base

SPREADS: tuple[tuple[int, Dimension], ...] = (
    (2, Dimension(path="optimizer.lr", kind="log", low=1 / 30, high=30, centre=1.0, spread=0.9,
                  why="the learning rate decides most; its best value lies within a factor of 2.5 of the default in two of three cases (Tinker's sweep, docs/defaults.md)")),
    (10, Dimension(path="training.batch_size", kind="choice", options=(8, 16, 32), spread=0.5, why="goes with the learning rate")),
    (10, Dimension(path="model.dropout", kind="choice", options=(0.0, 0.1, 0.2), spread=0.5, why="more for noisy labels, a hypothesis")),
    (16, Dimension(path="optimizer.weight_decay", kind="choice", options=(0.0, 0.01, 0.1), spread=0.5, why="matters little in short runs")),
    (16, Dimension(path="schedule.warmup", kind="choice", options=(0.03, 0.1, 0.2), spread=0.5, why="more for higher rates")),
    (16, Dimension(path="schedule.kind", kind="choice", options=("linear", "cosine", "wsd"), spread=0.4, why="straight to zero is hard to beat")),
)  # fmt: skip
"""From how many trials on a field is searched, and its prior; bounds and spread of the learning rate are multiples of the default's."""
FREEZING: tuple[tuple[int, Dimension], ...] = (
    (10, Dimension(path="adaptation.kind", kind="choice", options=("full", "freeze"), spread=0.5,
                   why="blocks that stay cost less, and few rows may not need them to move")),
    (10, Dimension(path="adaptation.depth", kind="choice", options=(0,), spread=0.5, when={"adaptation.kind": "freeze"},
                   why="what one pass over the rows proposes, and the depths beside it")),
)  # fmt: skip
"""As `SPREADS`, where everything moves by default and it is known which depths are worth trying."""
STAY = {
    "training.epochs": "early stopping and the best checkpoint find the end within a run",
    "adaptation.kind": "name it to search it: --space 'adaptation.kind=full|freeze|lora'",
}
"""Fields that a search leaves alone unless it is asked, and why."""
ENDS = {
    "training.epochs": "not a dimension: the last trials end early and late, and the better end is taken",
    "schedule.kind": "decided at the end: the learning rate stays constant in each trial; its decay, linear or cosine, is chosen when the best trial is finished",
}
"""As `STAY`, where finalists have several ends."""


def space_for(
    experiment: Experiment,
    trials: int,
    fixed: Sequence[str] = (),
    asked: Sequence[str] = (),
    named: Sequence[str] = (),
    depths: Sequence[int] = (),
    ends: bool = False,
    base: Base | None = None,
) -> tuple[Space, dict[str, str]]:
    """What a search of so many trials varies, and why the rest of the hyperparameters that matter stay.

    Args:
        experiment: the default.
        trials: of the search.
        fixed: paths that the person has set: they stay.
        asked: dimensions as typed after --space; they join, or take the place of those that are there.
        named: paths of points that are to be tried: they are searched however few the trials.
        depths: blocks that may be worth freezing, the best proposal first; empty where nobody knows.
        ends: trials have a learning rate that stays, and the finalists several ends.
        base: of the experiment; None takes it for the task's own.

    Raises:
        ExperimentError: a dimension that does not fit the experiment.
    """
    typed = {dimension.path: dimension for dimension in (parse_dimension(text, experiment) for text in asked)}
    dimensions: list[Dimension] = []
    stay = {path: "set by you" if path in fixed else why for path, why in ({**STAY, **ENDS} if ends else STAY).items()}
    freezes = (
        depths and value_at(experiment, "adaptation.kind") == "full" and not {"adaptation.kind", "adaptation.depth"} & {*typed, *fixed}
    )
    for least, dimension in (*SPREADS, *(FREEZING if freezes else ())):
        path = dimension.path
        if path in typed or (ends and path in ENDS):
            continue
        if path in fixed:
            stay[path] = "set by you"
        elif trials < least and path not in named:
            stay[path] = f"{trials} trials are spent on what matters more; it joins from {least} on"
        elif path == "adaptation.depth":
            dimensions.append(dimension.model_copy(update={"options": tuple(sorted(depths)), "centre": depths[0]}))
        else:
            dimensions.append(_centre(dimension, value_at(experiment, path)))
            stay.pop(path, None)
    space = (*dimensions, *typed.values())
    paths = {dimension.path for dimension in space}
    for dimension in space:
        missing = [path for path in dimension.when if path not in paths]
        if missing:
            raise ExperimentError(
                f"--space {dimension.as_text()!r}: {missing[0]} does not vary",
                f"add --space '{missing[0]}=…|…', or leave the condition out",
            )
    if "adaptation.kind" in paths:
        space = tuple(_following(dimension, experiment, base) if dimension in dimensions else dimension for dimension in space)
    return space, {path: why for path, why in stay.items() if path not in typed}


def _following(dimension: Dimension, experiment: Experiment, base: Base | None) -> Dimension:
    """The learning rate, which is another one for another adaptation."""
    if dimension.path != "optimizer.lr":
        return dimension
    objective: Any = experiment.objective
    family = family_of(objective.kind)
    now = family.learning_rate(base, value_at(experiment, "adaptation.kind"))[0]
    rates = {adaptation: family.learning_rate(base, adaptation)[0] / now for adaptation in family.adaptations(base)}
    return dimension.model_copy(update={"multiples": {"adaptation.kind": rates}})


def _centre(dimension: Dimension, value: Any) -> Dimension:
    """The dimension around the default's value."""
    if dimension.kind == "log":
        return dimension.model_copy(update={"low": dimension.low * value, "high": dimension.high * value, "centre": value})
    options = dimension.options if value in dimension.options else (value, *dimension.options)
    return dimension.model_copy(update={"centre": value, "options": options})


def starting_experiment(
    dataset: Dataset,
    base: Base | None,
    seed: int,
    metric: str = AUTO,
    scratch: bool = False,
    own: bool = False,
    seconds: float | None = None,
) -> tuple[Experiment, list[Choice]]:
    """Make an experiment for these rows of what the family gives as `defaults`, with the reason for each value.

    Args:
        dataset: the rows.
        base: that is trained; None takes the family's own, or nothing pretrained.
        seed: of the experiment.
        metric: that the person asked for.
        scratch: with nothing pretrained.
        own: whether the base is the family's own, which nobody asked for.
        seconds: for everything, where a network is made from scratch, whose size may follow from it.

    Raises:
        ExperimentError: such rows can be checked, not trained on.
    """
    family = family_of(dataset.spec.task)
    if family.Spec is None:
        raise ExperimentError(f"{dataset.reason}: they can be checked (`luthier check`), and not be trained on yet", family.instead)
    if scratch and not family.from_scratch:
        raise ExperimentError(f"{with_article(family.name)} model is not made from scratch", f"choose a base, such as --base {family.base}")
    suggestions = family.defaults(dataset, base, metric)
    if seconds is not None:
        suggestions = family.fit_budget(suggestions, dataset, seconds)
    values: dict[str, Any] = {choice.path: choice.value for choice in suggestions}
    name = base.name if base else None if scratch else family.base
    why = "as asked" if base and not own else f"the embedded base for {family.name}"
    choices = [
        Choice("data.task", family.name, dataset.reason),
        *(
            [Choice("model.base", name, why)]
            if name
            else [Choice("model.base", "", "nothing pretrained: the network is made from scratch")]
        ),
        *suggestions,
    ]
    adaptation = {path.partition(".")[2]: value for path, value in values.items() if path.startswith("adaptation.")}
    experiment = Experiment.of(
        {
            "seed": seed,
            "data": dataset.spec.model_dump(mode="json"),
            "objective": {"kind": family.name},
            "adaptation": adaptation,
            "optimizer": {"kind": "adamw", "lr": values["optimizer.lr"]},
            "schedule": {"kind": "linear"},
            "training": {"evaluations_per_epoch": 4.0 if values["training.epochs"] <= 1 else 2.0},
        }
    )
    experiment = experiment.model_copy(update={"objective": family.fit_spec(experiment.objective, dataset)})
    for choice in choices:
        experiment = experiment.replace(choice.path, choice.value)
    return experiment.model_copy(update={"objective": family.fit_spec(experiment.objective, dataset)}), choices
