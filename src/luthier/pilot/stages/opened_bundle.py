"""A bundle, opened to be asked: found and checked, loaded, and what it says made into an answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core import hub
from luthier.core.aliases import read_alias, read_aliases
from luthier.core.errors import ExperimentError, ModelError, nearest
from luthier.core.run_entry import is_run
from luthier.core.words import plural
from luthier.evaluation.abstention import Abstention, Promise, explain_promise, explain_threshold, percent, rows_needed
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.models.manifest import is_bundle
from luthier.models.store import resolve

Say = Callable[[str], None]


def resolve_bundle(bundle: str | os.PathLike[str], say: Say) -> tuple[Base, dict[str, Any]]:
    """A bundle whose files were checked, and what Luthier wrote about it.

    Args:
        bundle: RUN/bundle, the run's folder, the run itself, an alias, or a name on the hub.
        say: told what a person should know.

    Raises:
        ModelError: there is none, or it is not whole.
    """
    folder, bundle = Path(bundle), os.fspath(bundle)
    on_hub = hub.NAME.fullmatch(bundle) is not None and not Path(bundle.partition("/")[0]).exists()
    if not folder.exists() and read_alias(bundle) is None and not on_hub:
        there = folder.parent.iterdir() if folder.parent.is_dir() else ()
        beside = [entry.name for entry in there if is_bundle(entry) or is_run(entry)]
        raise ModelError(f"there is no bundle {bundle}", nearest(folder.name, [*beside, *read_aliases()]))
    base = resolve(bundle, say)
    if base.bundle is None:
        raise ModelError(f"{base.folder} is not a Luthier bundle: it has no luthier.json", "give RUN/bundle, or the run's folder")
    return base, base.bundle


def load_bundle(base: Base) -> tuple[Any, Any]:
    """A bundle's model, and its objective with the bundle's tokenizer.

    Args:
        base: a bundle, resolved.
    """
    from luthier.delivery.bundle import open_bundle, read_bundle_spec
    from luthier.training.devices import configure_torch

    configure_torch()
    assert base.bundle is not None
    family = family_of(base.bundle["task"])
    return open_bundle(base, family.load_processor(base, read_bundle_spec(base)))


def choose_threshold(
    base: Base, family: Family, top: int | None = None, abstain_below: float | None = None, error_below: float | None = None
) -> float | None:
    """Refuse options that do not fit, before anything is read; else the confidence below which the label is left out, or None.

    Args:
        base: a bundle, resolved.
        family: of its model.
        top: so many of the likeliest classes.
        abstain_below: the confidence below which the label is left out, as a person set it.
        error_below: the share of the labels that may be wrong; the threshold is the lowest with which that can be promised.

    Raises:
        ExperimentError: an option does not fit, or so small an error cannot be promised.
    """
    named = {"top": top, "abstain_below": abstain_below, "error_below": error_below}
    name = next((name for name, value in named.items() if value is not None), None)
    if name is not None and not family.kind.classes:
        what = "writes text, which has no classes" if family.generates else "does not choose one class a row"
        raise ExperimentError(f"{name} is for classifiers: this model {what}", f"leave {name} out")
    if top is not None and top < 1:
        raise ExperimentError(f"top={top} names no class", "give 1 or more")
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise ExperimentError(f"abstain_below={abstain_below} is no probability", "give a number from 0 to 1, such as 0.8")
    if error_below is None:
        return abstain_below
    if abstain_below is not None:
        raise ExperimentError("abstain_below and error_below both say when a label is left out", "give one of them")
    return promise_error(base, error_below).counts.threshold


def promise_error(base: Base, error_below: float) -> Promise:
    """The lowest threshold of which a bundle can promise that no more than such a share of its answers is wrong.

    Args:
        base: a bundle of a classifier, resolved.
        error_below: the share.

    Raises:
        ExperimentError: it is no share, the bundle has no table of thresholds, or its validation rows are too few.
    """
    if not 0 < error_below < 1:
        raise ExperimentError(
            f"error_below={error_below:g} is no share of the answers", "give a number between 0 and 1, such as 0.05 for 5%"
        )
    table = (base.bundle or {}).get("abstention")
    if table is None:
        raise ExperimentError(
            f"{base.name} does not say how often it is wrong above which confidence: an earlier version wrote it",
            "train it again, or set the threshold yourself: abstain_below=0.8",
        )
    abstention = Abstention.from_json(table)
    promise = abstention.promise(error_below)
    if promise is None:
        least, rows = abstention.least_error(), plural(abstention.rows, "validation row")
        known = f"the smallest error that {rows} can promise here is {percent(least)}" if least < 1 else f"{rows} can promise nothing here"
        raise ExperimentError(
            f"an error below {percent(error_below)} cannot be promised: {known}",
            f"{f'ask for {percent(least)} or more, ' if least < 1 else ''}train with more validation rows (at least {rows_needed(error_below):,}, none of them wrong, can "
            f"promise {percent(error_below)}), or set the threshold yourself: abstain_below=0.8",
        )
    return promise


def describe_threshold(base: Base, abstain_below: float | None, error_below: float | None) -> str:
    """What the validation rows say of the threshold, in a sentence; empty where there is none, or nothing is known of it.

    Args:
        base: a bundle of which `choose_threshold` has taken the options.
        abstain_below: a threshold that a person set.
        error_below: an error that was asked for.
    """
    table = (base.bundle or {}).get("abstention")
    if table is None or (abstain_below is None and error_below is None):
        return ""
    if error_below is not None:
        return explain_promise(promise_error(base, error_below))
    return explain_threshold(Abstention.from_json(table), abstain_below or 0.0)


def postprocess(one: dict[str, Any], top: int | None, threshold: float | None) -> dict[str, Any]:
    """Make a prediction what is answered: with its likeliest classes, and without its label where the model is not sure enough.

    Args:
        one: what the family's `predict` says of a row.
        top: so many of the likeliest classes.
        threshold: the confidence below which the label is left out; None gives every label.
    """
    decided = dict(one)
    if threshold is not None:
        decided["abstained"] = one["confidence"] < threshold
        if decided["abstained"]:
            decided["label"] = None
    if top is not None:
        likeliest = sorted(one["probabilities"].items(), key=lambda pair: -pair[1])[:top]
        decided["top"] = [{"label": label, "probability": value} for label, value in likeliest]
    return decided
