"""The sealed rows, opened once: the trained model against its rivals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.core.types import Example, Scores
from luthier.evaluation import baselines
from luthier.evaluation.choice import metrics_at_verdict
from luthier.evaluation.generated import ANSWERED_AT_VERDICT
from luthier.evaluation.metrics import calibration, confusion, never_predicted, per_class
from luthier.evaluation.score import score
from luthier.evaluation.verdict import decide, finding
from luthier.experiment import Experiment
from luthier.models.precision import compute_in
from luthier.pilot.stages.features import Features
from luthier.pilot.stages.samples import compared
from luthier.pilot.stages.unpredicted import name_never_predicted
from luthier.pilot.stages.way import Way
from luthier.training.assemble import load_model, prefix
from luthier.training.steps import Work

Rivals = list[tuple[str, Callable[[Sequence[Example]], Scores]]]
"""Names and scorers; the first is the base, the others are trivial."""


def judged(way: Way, experiment: Experiment, work: Work, best: dict[str, Any]) -> dict[str, Any]:
    """Fit the rivals on the training rows, open the sealed rows once, and compare.

    Args:
        way: knows the rows.
        experiment: of the run.
        work: its model holds the chosen checkpoint.
        best: the evaluation that chose it.

    Returns:
        The content of verdict.json, without the run's seconds.
    """
    place, task = way.place, way.intake.spec.task or ""
    with (_chat_rivals if task == "chat" else _class_rivals)(way, experiment, work) as rivals:
        place.event("test_opened", rows=len(way.intake.records["test"]))
        test = way.examples("test")
        work.model.prefix = prefix(experiment, work.model, test, getattr(torch, experiment.training.dtype), {})
        ours = score(work.model, work.objective, test, poll=way.signals.poll, answers=ANSWERED_AT_VERDICT)
        base, *trivial = [(name, scored(test)) for name, scored in rivals]
    verdict = decide(task, metrics_at_verdict(work.objective.metrics, task), ours, base, dict(trivial))
    verdict |= {
        "checkpoint": best["step"],
        "validation": {name: best[name] for name in work.objective.metrics},
        "test_opened": len(place.happened("test_opened")),
    }
    details = _rows(work, test, ours, base[1]) | (compared(way, work, test) if task == "chat" else _by_class(experiment, ours))
    place.write_json("evaluation.json", details)
    name_never_predicted(way, never_predicted(ours), "test")
    place.find(finding(verdict))
    return verdict


@contextlib.contextmanager
def _chat_rivals(way: Way, experiment: Experiment, work: Work) -> Iterator[Rivals]:
    """The untouched base, and word frequencies that copy."""
    untouched = compute_in(load_model(experiment, way.base), getattr(torch, experiment.training.dtype)).eval()
    trivial = baselines.copier(way.examples("train"), way.examples("validation"), len(way.tokenizer))

    def scored(test: Sequence[Example]) -> Scores:
        untouched.prefix = work.model.prefix  # frozen blocks say the same in both
        return score(untouched, way.objective, test, poll=way.signals.poll, answers=ANSWERED_AT_VERDICT)

    yield [(f"{way.base.name}, untouched", scored), (trivial.name, trivial.score)]


@contextlib.contextmanager
def _class_rivals(way: Way, experiment: Experiment, work: Work) -> Iterator[Rivals]:
    """Logistic regression on the frozen base; and the most frequent class, and words alone."""
    given = way.examples("train"), way.examples("validation"), len(way.intake.labels)
    with Features(way, experiment, work.model) as features:
        base = baselines.frozen(way.base.name, features, *given)
        way.signals.poll()
        trivial = [baselines.majority(*given), baselines.words(*given, experiment.data.input)]
        way.signals.poll()
        yield [(rival.name, rival.score) for rival in (base, *trivial)]


def _by_class(experiment: Experiment, ours: Scores) -> dict[str, Any]:
    """Where a classifier is right, wrong, and too sure."""
    labels = getattr(experiment.objective, "labels", ())
    assert ours.target is not None and ours.probabilities is not None
    return {
        "labels": list(labels),
        "per_class": per_class(ours, labels),
        "confusion": confusion(ours.target, ours.probabilities.argmax(1), len(labels)).tolist(),
        "calibration": calibration(ours),
    }


def _rows(work: Work, test: Sequence[Example], ours: Scores, base: Scores, shown: int = 8) -> dict[str, Any]:
    """The rows it does worst and best on, and those it gained and lost most against the base."""
    each, rival = (scores.loss / np.maximum(scores.count, 1) for scores in (ours, base))
    told = np.flatnonzero(ours.count > 0)  # a row that was cut before its answer says nothing about the model
    labels: Any = getattr(work.experiment.objective, "labels", None)

    def row(position: int) -> dict[str, Any]:
        record = test[position].record
        found = {"file": Path(record.source).name, "line": record.row, "loss": each[position], "base_loss": rival[position],
                 "input": [str(record.values.get(name) or "")[:600] for name in work.experiment.data.input]}  # fmt: skip
        if labels and ours.probabilities is not None:
            said = int(ours.probabilities[position].argmax())
            found |= {
                "target": labels[test[position].target],
                "said": labels[said],
                "confidence": float(ours.probabilities[position, said]),
            }
        else:
            found |= {"target": test[position].facts["messages"][-1]["content"][:600]}
        return found

    order = told[np.argsort(-each[told], kind="stable")]
    return {"worst": [row(position) for position in order[:shown]], "best": [row(position) for position in order[::-1][:shown]],
            "truncated": sum(example.facts.get("cut", 0) > 0 for example in test)}  # fmt: skip
