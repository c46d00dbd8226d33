"""Choose the base that suits the rows, of those on this machine and within the time budget."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import Reporter
from luthier.core.run import Clock
from luthier.data.dataset import Dataset
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.models.store import list_bases, resolve
from luthier.pilot.stages.base_similarity import BaseSimilarity, compare_base, rank_bases
from luthier.studies.defaults import starting_experiment

PASSES = 3
"""A step of training takes about as long as reading its rows three times: forwards once, and backwards twice that."""
ROWS = 500
"""That are read with each base: with 480 the base that was proposed was 0.1 points behind the best (docs/log/2026-11.md#which-base-four-whole-ones)."""
COMPARING = 1 / 8
"""Of the time, that may go into it."""

LEARNED = {
    "class": "a class is learned",
    "classes": "several classes a row are learned",
    "number": "a number is learned",
    "answer": "another text is written for each",
    "better answer": "the better of two answers is learned",
    "judged answer": "good and bad answers are told apart",
    "spans": "parts of a text are labelled",
    "nothing": "neither is learned",
}
"""What a row teaches, as a sentence says it."""


def ranks_bases(family: Family) -> bool:
    """Whether bases can be compared by one pass over a family's rows: texts with one class each, or conversations; of a preference no base foresees which way it goes."""
    answers = family.converses and family.kind.learns == "answer"
    return family.Spec is not None and family.base is not None and not family.kind.images and (family.kind.classes or answers)


def require_comparable(dataset: Dataset) -> str:
    """The task of rows on which bases can be compared.

    Raises:
        ExperimentError: they cannot.
    """
    family = family_of(dataset.spec.task)
    if family.kind.images:
        raise ExperimentError(
            "bases for images are not compared by one pass over the rows: no such comparison has been measured",
            "name one (--base efficientnet-lite0), or train from several: `luthier transfer DATA --from scratch,efficientnet-lite0`",
        )
    if not ranks_bases(family):
        learned = LEARNED[family.kind.learns]
        raise ExperimentError(
            f"{dataset.reason}: similarity is read off classes or answers, and here {learned}: of such rows no comparison by one pass has been measured",
            f"train from several bases instead: `luthier transfer DATA --task {family.name} --from {family.base or 'scratch'},OTHER`",
        )
    return dataset.spec.task or ""


def local_bases(task: str, reporter: Reporter) -> list[str]:
    """The bases known by name that fit a task and need no fetching, its own in any case; what else there is is said."""
    family = family_of(task)
    fitting = [base for base in list_bases() if base["kind"] in family.base_kinds]
    here = [base["name"] for base in fitting if base["here"] or base["name"] == family.base]
    for base in fitting:
        if base["name"] not in here:
            reporter.say(
                f"not compared, because it is not here: {base['name']} ({base['megabytes']} MB); luthier models pull {base['name']}"
            )
    return here


def choose_base(dataset: Dataset, seconds: float | None, reporter: Reporter) -> tuple[Base, str]:
    """The base that is likely to become the best on the rows, of those that can be trained in the time.

    Args:
        dataset: the rows.
        seconds: for everything; None where there is no limit.
        reporter: shows progress.

    Returns:
        The base, and why it was taken.
    """
    clock = Clock()
    names = local_bases(require_comparable(dataset), reporter)
    bases = {name: resolve(name, reporter.say) for name in names}
    if len(names) == 1:
        return bases[names[0]], "the only one that is here and fits the task"
    read = _compare_bases(sorted(bases.values(), key=_cost_of_token), dataset, seconds, clock, reporter)
    ranking = sorted(rank_bases(read), key=lambda candidate: -candidate.chance)  # of exact ties the larger stays first
    needed = {candidate.base: _training_seconds(candidate, bases[candidate.base], dataset) for candidate in ranking}
    left = None if seconds is None else seconds - clock()
    fitting = [candidate for candidate in ranking if left is None or needed[candidate.base] <= left]
    choice = fitting[0] if fitting else min(ranking, key=lambda candidate: needed[candidate.base])
    chances = ", ".join(f"{candidate.base} {candidate.chance:.0%}" for candidate in ranking)
    slower = ", ".join(f"{candidate.base} (some {needed[candidate.base]:.0f} s)" for candidate in ranking[: ranking.index(choice)])
    why = (
        f"chance to be the best, after one pass over the rows: {chances}" if len(ranking) > 1 else "the only one that the time suffices for"
    )
    return bases[choice.base], why + (f"; the time does not suffice for {slower}" if slower else "")


def _compare_bases(
    bases: Sequence[Base], dataset: Dataset, seconds: float | None, clock: Clock, reporter: Reporter
) -> list[BaseSimilarity]:
    """What the bases know of the rows, the quickest first, as long as little of the time goes into it."""
    comparisons: list[BaseSimilarity] = []
    last = bases[0]
    for base in bases:
        awaited = (
            comparisons[-1].seconds * (_cost_of_token(base) / _cost_of_token(last)) ** 0.75 if comparisons else 0.0
        )  # wide products are done at a better rate
        if comparisons and seconds is not None and clock() + awaited > COMPARING * seconds:
            reporter.say(f"not compared, because reading the rows would take too much of the time: {base.name}")
            continue
        comparisons.append(compare_base(base, dataset, reporter, ROWS))
        last = base
    return comparisons


def _cost_of_token(base: Base) -> int:
    """What a token costs, more or less."""
    return base.blocks * base.width**2


def _training_seconds(similarity: BaseSimilarity, base: Base, dataset: Dataset) -> float:
    """About how many seconds its training takes, from how long one pass took."""
    epochs = starting_experiment(dataset, base, 1)[0].training.epochs or 0
    return PASSES * epochs * similarity.seconds * len(dataset.records["train"]) / max(similarity.rows, 1)
