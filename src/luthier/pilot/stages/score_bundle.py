"""Score a run's bundle on rows, as its verdict was made; and make two models' scores of the same rows comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ExperimentError
from luthier.core.types import Record, Scores
from luthier.evaluation.metric_choice import metrics_at_evaluations
from luthier.evaluation.metrics import needs_answers

Say = Callable[[str], None]


def score_bundle(bundle: Path, records: Sequence[Record], metric: str, say: Say = lambda line: None) -> Scores:
    """What a bundle says of rows, with the objective and the dtype of its evaluation.

    Args:
        bundle: its folder.
        records: the rows, with the columns that it reads and its target.
        metric: that will be taken: where it reads answers, some rows are answered too.
        say: told what a person should know.

    Raises:
        ModelError: the bundle is not whole.
    """
    from luthier.delivery.bundle import open_bundle
    from luthier.evaluation.score import score
    from luthier.families import family_of
    from luthier.models.store import resolve
    from luthier.training.devices import configure_torch, device

    configure_torch()
    base = resolve(str(bundle), say)
    assert base.bundle is not None
    family = family_of(base.bundle["task"])
    tokenizer = family.load_processor(base, family.spec_class.model_validate(base.bundle["objective"]))
    model, objective = open_bundle(base, tokenizer)
    objective.metrics = metrics_at_evaluations(metric, objective.metrics, family)
    answers = objective.answered_at_verdict if needs_answers(metric, family.generates) else 0
    return score(model.to(device()), objective, objective.prepare(records), answers=answers)


def comparable_scores(metric: str, one: Scores, other: Scores) -> tuple[str, Scores, Scores]:
    """Two models' scores of the same rows in the same order, and a metric that means the same for both.

    Args:
        metric: that was asked for.
        one: a model's scores.
        other: another's.

    Returns:
        The metric (bits per byte where a loss counts tokens and the models cut the rows into other tokens), and both scores.

    Raises:
        ExperimentError: they cannot be compared: other classes, or other units of the loss.
    """
    one, other = _same_classes(one, other)
    if one.groups is not None and other.groups is not None and (len(one.loss) != len(other.loss) or (one.groups != other.groups).any()):
        one, other = _by_row(one), _by_row(other)
    if len(one.loss) != len(other.loss):
        raise ExperimentError("one of the models makes more of the rows than the other, so that they cannot be compared row by row",
                              "compare runs of the same base and the same objective")  # fmt: skip
    if metric in ("loss", "perplexity") and (one.count != other.count).any():
        if one.bytes is None or other.bytes is None:
            raise ExperimentError(
                f"{metric} counts tokens, and the two models cut the rows into different ones",
                "compare runs whose bases have the same tokenizer",
            )
        return "bits_per_byte", one, other
    return metric, one, other


def _same_classes(one: Scores, other: Scores) -> tuple[Scores, Scores]:
    """The other scores with their classes in the order of the first."""
    if one.labels == other.labels:
        return one, other
    if set(one.labels) != set(other.labels):
        missing = ", ".join(map(repr, sorted(set(one.labels) ^ set(other.labels))[:3]))
        raise ExperimentError(
            f"the runs do not know the same classes: only one of them knows {missing}", "compare runs with the same classes"
        )
    if other.probabilities is None or other.target is None:
        return one, other  # of several labels a row each is counted by itself
    order = [other.labels.index(label) for label in one.labels]
    back = np.argsort(order)
    return one, replace(other, probabilities=other.probabilities[:, order], target=back[other.target], labels=one.labels)


def _by_row(scores: Scores) -> Scores:
    """The loss and what it is divided by, summed over the examples of each row."""
    assert scores.groups is not None
    kinds, positions = np.unique(scores.groups, return_inverse=True)

    def sum_by_row(values: Any) -> Any:
        return None if values is None else np.bincount(positions, weights=values, minlength=len(kinds))

    return Scores(loss=sum_by_row(scores.loss), count=sum_by_row(scores.count), bytes=sum_by_row(scores.bytes), groups=kinds)
