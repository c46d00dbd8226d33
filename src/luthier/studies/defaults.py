"""Where a run starts from: each value with its reason. Data, not code: the tables are the point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ExperimentError
from luthier.data.intake import Intake
from luthier.evaluation.choice import AUTO
from luthier.experiment import Experiment
from luthier.objectives import OBJECTIVES
from luthier.studies.space import Dimension, Space, parsed, value_at

if TYPE_CHECKING:
    from luthier.models.store import Base

BASES = {"classification": "minilm-l6", "chat": "smollm2-135m"}

READER = "a decoder whose new head has few steps: 60 and 180 of them, three sets (docs/defaults.md)"
SMALL_ENCODER = "small encoders: 3e-5 to 3e-4 (BERT-small grid; docs/defaults.md)"
ENCODER = "encoders of BERT's size: 2e-5 to 5e-5 (the grids of BERT and RoBERTa; docs/defaults.md)"
WIDE = 512
"""An encoder whose states are at least this wide is not a small one."""
RATES: dict[tuple[str, str], tuple[float, str]] = {
    ("small encoder", "full"): (1e-4, SMALL_ENCODER),
    ("small encoder", "freeze"): (3e-4, "above a frozen prefix the learning rate can be higher"),
    ("small encoder", "gradual"): (1e-4, SMALL_ENCODER),
    ("small encoder", "lora"): (1e-3, "adapters learn at about ten times the learning rate of full tuning"),
    ("encoder", "full"): (5e-5, ENCODER),
    ("encoder", "freeze"): (1e-4, "above a frozen prefix the learning rate can be higher"),
    ("encoder", "gradual"): (5e-5, ENCODER),
    ("encoder", "lora"): (5e-4, "adapters learn at about ten times the learning rate of full tuning"),
    ("decoder", "full"): (1e-4, "full fine-tuning of 100–400M decoders on fewer than 10,000 rows"),
    ("decoder", "freeze"): (1e-4, "as full fine-tuning"),
    ("decoder", "gradual"): (1e-4, "as full fine-tuning"),
    ("decoder", "lora"): (3e-4, "flat optimum over 35 models and all ranks (Tinker cookbook's sweep)"),
    ("reader", "full"): (3e-4, READER),
    ("reader", "freeze"): (6e-4, READER),
    ("reader", "gradual"): (3e-4, "as full fine-tuning"),
    ("reader", "lora"): (1e-3, "as adapters in an encoder; not measured"),
}
"""(what the base does, adaptation) → rate and where it comes from; a reader is a decoder that classifies."""
SCALES: dict[tuple[str, str], tuple[float, str]] = {
    ("reader", "gemma3_text"): (1 / 6, "Gemma 3 with a new head: 1e-4 was better than 3e-4 and 6e-4, three sets (docs/defaults.md)"),
    ("decoder", "gemma3_text"): (1 / 5, "Gemma 3: 1e-5 and 3e-5 learned in thirty steps what 1e-4 did not (docs/defaults.md)"),
}
"""(what the base does, its family) → what the rate is multiplied by where the base's own weights move, and where that comes from."""

FALLING = ("reader",)
"""What a base does whose rate has to fall all the way, also in a search: one that stays for half of sixty steps costs a decoder with a new head two to six points (docs/log/2026-11.md#rates-that-stay-in-short-runs)."""

EPOCHS: dict[str, tuple[tuple[int, float, str], ...]] = {
    "classification": (
        (500, 12, "few rows: more passes"),
        (2_000, 6, "a few thousand rows"),
        (5_000, 4, "a few thousand rows"),
        (1 << 62, 3, "many rows"),
    ),
    "chat": ((500, 2, "few rows"), (1 << 62, 1, "one pass; more overfits small decoders")),
}
"""task → (below this many training rows, epochs, why)."""

BATCHES = {"classification": (32, 16, 8, 4), "chat": (8,)}
"""task → rows a step, the most first: 32 are as good as 16 where the steps suffice, in four fifths of the time (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""
STEPS = 100, 12
"""That a classifier's run should have, and so many more for each class: 20 classes lost 2 points in 200 steps of 32 rows against 400 of 16 (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""

ROWS_A_CLASS = (200, 8.0, "fewer than 200 rows a class: more passes")
"""Below this many training rows a class, at least this many epochs."""


RARE = 0.1
"""Of an even share of the training rows: a class that has less is all but invisible to accuracy."""
EVEN = ("macro_f1", "balanced_accuracy")
"""Metrics that count every class the same."""
WEIGHTED, WHY_WEIGHTED = "balanced", "a rare class's rows count more"

MANY_LONG = 0.1
"""Share of long rows above which they are read in windows."""
CHARACTERS_A_TOKEN = 4.5
"""Of English prose, roughly."""


SPREADS: tuple[tuple[int, Dimension], ...] = (
    (2, Dimension(path="optimizer.lr", kind="log", low=1 / 30, high=30, centre=1.0, spread=0.9,
                  why="the learning rate decides most; its best value lies within a factor of 2.5 of the default in two of three cases (Tinker's sweep, docs/defaults.md)")),
    (10, Dimension(path="training.batch_size", kind="choice", options=(8, 16, 32), spread=0.5, why="goes with the learning rate")),
    (10, Dimension(path="model.dropout", kind="choice", options=(0.0, 0.1, 0.2), spread=0.5, why="more for noisy labels, a hypothesis")),
    (16, Dimension(path="optimizer.weight_decay", kind="choice", options=(0.0, 0.01, 0.1), spread=0.5, why="matters little in short runs")),
    (16, Dimension(path="schedule.warmup", kind="choice", options=(0.03, 0.1, 0.2), spread=0.5, why="more for higher rates")),
    (16, Dimension(path="schedule.kind", kind="choice", options=("linear", "cosine", "wsd"), spread=0.4, why="straight to zero is hard to beat")),
)  # fmt: skip
"""From how many trials on a field is searched, and its prior; bounds and spread of the rate are multiples of the default's."""
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
        ends: trials have a rate that stays, and the finalists several ends.
        base: of the experiment; None takes it for the task's own.

    Raises:
        ExperimentError: a dimension that does not fit the experiment.
    """
    typed = {dimension.path: dimension for dimension in (parsed(text, experiment) for text in asked)}
    found: list[Dimension] = []
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
            found.append(dimension.model_copy(update={"options": tuple(sorted(depths)), "centre": depths[0]}))
        else:
            found.append(_centred(dimension, value_at(experiment, path)))
            stay.pop(path, None)
    space = (*found, *typed.values())
    paths = {dimension.path for dimension in space}
    for dimension in space:
        missing = [path for path in dimension.when if path not in paths]
        if missing:
            raise ExperimentError(
                f"--space {dimension.said()!r}: {missing[0]} does not vary", f"add --space '{missing[0]}=…|…', or leave the condition out"
            )
    if "adaptation.kind" in paths:
        space = tuple(_following(dimension, experiment, base) if dimension in found else dimension for dimension in space)
    return space, {path: why for path, why in stay.items() if path not in typed}


def _following(dimension: Dimension, experiment: Experiment, base: Base | None) -> Dimension:
    """The rate, which is another one for another adaptation."""
    if dimension.path != "optimizer.lr":
        return dimension
    task, role = experiment.data.task, role_of(experiment.data.task, base)
    now = rate_for(task, base, value_at(experiment, "adaptation.kind"))[0]
    rates = {adaptation: rate_for(task, base, adaptation)[0] / now for of, adaptation in RATES if of == role}
    return dimension.model_copy(update={"multiples": {"adaptation.kind": rates}})


def _centred(dimension: Dimension, value: Any) -> Dimension:
    """The dimension around the default's value."""
    if dimension.kind == "log":
        return dimension.model_copy(update={"low": dimension.low * value, "high": dimension.high * value, "centre": value})
    options = dimension.options if value in dimension.options else (value, *dimension.options)
    return dimension.model_copy(update={"centre": value, "options": options})


@dataclass(frozen=True)
class Choice:
    """A chosen value.

    Args:
        path: its field in the experiment.
        value: what was chosen.
        reason: why.
    """

    path: str
    value: Any
    reason: str


def choose(intake: Intake, base: Base | None, seed: int, metric: str = AUTO) -> tuple[Experiment, list[Choice]]:
    """An experiment for these rows, with the reason for each value.

    Args:
        intake: the rows.
        base: that the person asked for; None takes the task's default.
        seed: of the experiment.
        metric: that the person asked for.

    Raises:
        ExperimentError: the rows are for a task that has no objective.
    """
    task = intake.spec.task or "classification"
    _trainable(intake, task)
    rows = len(intake.records["train"])
    adaptation, adapted = adaptation_for(task, base)
    rate, why_rate = rate_for(task, base, adaptation["kind"])
    epochs, why_epochs = next((epochs, why) for limit, epochs, why in EPOCHS[task] if rows < limit)
    if intake.labels and rows / len(intake.labels) < ROWS_A_CLASS[0] and epochs < ROWS_A_CLASS[1]:
        epochs, why_epochs = ROWS_A_CLASS[1:]
    dropout = 0.1 if role_of(task, base).endswith("encoder") else 0.0
    decay = 0.0 if task == "chat" else 0.01
    choices = [
        Choice("data.task", task, intake.reason),
        Choice("model.base", base.name if base else BASES[task], "as asked" if base else f"the embedded base for {task}"),
        *(Choice(f"adaptation.{name}", value, adapted) for name, value in adaptation.items()),
        Choice("optimizer.lr", rate, why_rate),
        Choice("training.epochs", epochs, why_epochs),
        batch_for(intake, epochs),
        Choice("schedule.kind", "linear", "straight to zero beats cosine-to-10 % (D2Z)"),
        Choice("schedule.warmup", 0.1, "10 %: prevents early divergence (Mosbach et al. 2021)"),
        Choice("model.dropout", dropout, "the base's own" if dropout else "decoders are tuned without"),
        Choice("optimizer.weight_decay", decay, "not on biases and norms" if decay else "one pass over few rows needs none"),
        *metric_for(intake, metric),
    ]
    long = _long(intake) if task == "classification" and len(intake.spec.input) == 1 else 0.0
    if long > MANY_LONG:
        choices.append(
            Choice(
                "objective.long_rows", "windows", f"about {long:.0%} of the rows are too long to be read at once: they are read in pieces"
            )
        )
    experiment = Experiment.of(
        {
            "seed": seed,
            "data": intake.spec.model_dump(mode="json"),
            "objective": {"kind": task},
            "adaptation": adaptation,
            "optimizer": {"kind": "adamw", "lr": rate},
            "schedule": {"kind": "linear"},
            "training": {"evaluations_per_epoch": 4.0 if epochs <= 1 else 2.0},
        }
    )
    if intake.labels:
        experiment = experiment.replace("objective.labels", list(intake.labels))
    for choice in choices:
        experiment = experiment.replace(choice.path, choice.value)
    return experiment, choices


def metric_for(intake: Intake, asked: str = AUTO) -> list[Choice]:
    """What decides, and class weights where a class is so rare that accuracy does not see it.

    Args:
        intake: the rows.
        asked: the metric that the person asked for; it comes with weights where it counts every class the same.
    """
    if not intake.labels:
        return [Choice("training.metric", "loss" if asked == AUTO else asked, "the answers' mean negative log-likelihood")]
    rare = _rarest(intake)
    if not rare:
        return [Choice("training.metric", "accuracy" if asked == AUTO else asked, "no class is very rare: every row counts the same")]
    chosen = [Choice("training.metric", "macro_f1" if asked == AUTO else asked, f"{rare}: macro-F1 decides, and classes are weighted")]
    if chosen[0].value in EVEN:
        chosen.append(Choice("objective.class_weights", WEIGHTED, f"{rare}: {WHY_WEIGHTED}"))
    return chosen


def _rarest(intake: Intake) -> str:
    """Says which class has less than a tenth of an even share of the training rows; empty where none has."""
    counts = Counter(dict.fromkeys(intake.labels, 0))
    counts.update(str(record.values.get(intake.spec.target or "")) for record in intake.records["train"])
    rows = len(intake.records["train"])
    label = min(intake.labels, key=lambda label: counts[label])
    if counts[label] >= RARE * rows / len(intake.labels):
        return ""
    return f"{label!r} has {counts[label]:,} of {rows:,} rows, less than a tenth of an even share"


def batch_for(intake: Intake, epochs: float) -> Choice:
    """The most rows a step that leave a run as many steps as it should have."""
    batches = BATCHES[intake.spec.task or "classification"]
    needed = STEPS[0] + STEPS[1] * len(intake.labels)
    passed = len(intake.records["train"]) * epochs
    batch = next((batch for batch in batches if passed >= batch * needed), batches[-1])
    if batch == batches[-1]:
        return Choice("training.batch_size", batch, "small batches for few rows")
    return Choice("training.batch_size", batch, f"the most rows a step that leave at least {needed} steps")


def _trainable(intake: Intake, task: str) -> None:
    if task not in OBJECTIVES:
        chosen = "learn the chosen answers: --task chat --input prompt --target chosen"
        remedy = chosen if task == "preference" else "only rows of text can be trained on so far"
        raise ExperimentError(f"{intake.reason}: they can be checked (`luthier check`), and not be trained on yet", remedy)


def _long(intake: Intake) -> float:
    """About which share of the rows has more tokens than a classifier reads at once."""
    limit = OBJECTIVES["classification"]().max_length * CHARACTERS_A_TOKEN
    texts = [str(record.values.get(intake.spec.input[0]) or "") for record in intake.records["train"]]
    return sum(len(text) > limit for text in texts) / len(texts)


def role_of(task: str | None, base: Base | None) -> str:
    """What a base does: an encoder reads, small or not, a decoder writes, and one that classifies is a reader; None is the task's own base."""
    if task != "classification":
        return "decoder"
    if base is not None and base.kind == "decoder":
        return "reader"
    return "encoder" if base is not None and base.width >= WIDE else "small encoder"


def adaptation_for(task: str, base: Base | None) -> tuple[dict[str, Any], str]:
    """What moves by default, and why."""
    if base is not None and base.blocks > 1 and role_of(task, base) == "reader":
        why = "a decoder that classifies does better with its lower half kept (docs/defaults.md)"
        return {"kind": "freeze", "depth": base.blocks // 2}, why
    return {"kind": "full"}, "a base of this size is tuned whole"


def rate_for(task: str | None, base: Base | None, adaptation: str) -> tuple[float, str]:
    """The rate to start from for what a base does and how it is adapted, and where it comes from."""
    role = role_of(task, base)
    rate, why = RATES[role, adaptation]
    if base is None or adaptation == "lora" or (role, base.family) not in SCALES:
        return rate, why
    scale, why = SCALES[role, base.family]
    return float(f"{rate * scale:.2g}"), why
