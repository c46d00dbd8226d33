"""Evaluate on the test rows, once: what ships, against the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from luthier.core.run import Run, write_file
from luthier.core.types import Example, Scores
from luthier.delivery.bundle import Shipped
from luthier.evaluation import baselines
from luthier.evaluation.abstention import describe_abstention, explain_abstention, tabulate_abstention
from luthier.evaluation.baselines import Baseline
from luthier.evaluation.by_class import find_never_predicted
from luthier.evaluation.label_thresholds import apply_thresholds
from luthier.evaluation.metric_choice import metrics_at_verdict
from luthier.evaluation.metrics import measure
from luthier.evaluation.outputs import Outputs
from luthier.evaluation.score import score
from luthier.evaluation.verdict import decide, describe_model, verdict_finding
from luthier.experiment import Experiment
from luthier.models.precision import round_weights_to
from luthier.pilot.stages.base_choice import ranks_bases
from luthier.pilot.stages.candidates import PROBE, TRAINED, Candidates, fit_candidates, score_candidates
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.features import Features
from luthier.pilot.stages.finish_time import read_planned_rows
from luthier.pilot.stages.never_predicted import name_never_predicted
from luthier.pilot.stages.samples import compare_answers
from luthier.training.assemble import load_model, make_frozen_cache
from luthier.training.steps import Work

LEEWAY = 1.1
"""Of a forecast, so that a budget that is named as enough is."""


def evaluate_test(context: RunContext, experiment: Experiment, work: Work, best: dict[str, Any]) -> tuple[dict[str, Any], Shipped]:
    """Fit the baselines on the training rows, open the sealed rows once, and compare.

    Args:
        context: knows the rows.
        experiment: of the run.
        work: its model holds the chosen checkpoint; where it says probabilities, it is at its temperature afterwards.
        best: the evaluation that chose it.

    Returns:
        The content of verdict.json, without the run's seconds; and what ships.
    """
    place = context.run
    found, details, shipped = (judge_candidates if context.probes else judge_alone)(context, experiment, work)
    found |= {
        "checkpoint": best["step"],
        "validation": {name: best[name] for name in work.objective.metrics},
        "test_opened": len(place.events_named("test_opened")),
    }
    cut = budget_cut(place)
    if cut:
        found["cut"] = cut
    if "abstention" in details:
        context.reporter.say(explain_abstention(details["abstention"]))
    place.write_json("evaluation.json", details)
    place.add_findings(verdict_finding(found, ranks_bases(context.family)))
    return found, shipped


def judge_alone(context: RunContext, experiment: Experiment, work: Work) -> tuple[dict[str, Any], dict[str, Any], Shipped]:
    """The trained model against the untouched base, where that can be scored with the same loss, and the family's trivial models."""
    family = context.family
    untouched = None
    if (family.compares_untouched or family.has_reference) and context.base is not None:
        untouched = round_weights_to(load_model(experiment, context.base), getattr(torch, experiment.training.dtype)).eval()
    reads = family.reads_untouched and context.base is not None
    with Features(context, experiment, work.model) if reads else nullcontext() as features:
        asked = baseline_context(context, experiment)
        if context.base is not None and features is not None:
            asked = replace(asked, untouched=(context.base.name, features))
        trivial = family.baselines(context.examples("train"), context.examples("validation"), asked)
        fitted = family.fit_after_training(work.model, work.objective, context.examples("validation"))
        if fitted:
            context.reporter.say(fitted)
            context.run.event("fitted_after_training", what=fitted)
        outputs = family.outputs()
        abstains = outputs is not None and outputs.abstains
        held_out = score(work.model, work.objective, context.examples("validation"), poll=context.signals.poll) if abstains else None
        test = open_test(context, experiment, work)
        if untouched is not None:
            untouched.frozen_cache = work.model.frozen_cache  # frozen blocks say the same in both
            work.objective.begin(untouched, test, context.cache)
        ours = score(work.model, work.objective, test, poll=context.signals.poll, answers=context.objective.answered_at_verdict)
        base = None
        if family.compares_untouched and untouched is not None and context.base is not None:
            base = (
                f"{context.base.name}, untouched",
                score(untouched, context.objective, test, poll=context.signals.poll, answers=context.objective.answered_at_verdict),
            )
        others = {rival.name: rival.score(test) for rival in trivial}
    metrics = family.metrics_of_verdict(metrics_at_verdict(work.objective.metrics, family), ours)
    found = decide(family.name, metrics, ours, base, others)
    details = _rows(context, work, test, ours, base or next(iter(others.items()), None)) | family.details(ours, experiment.objective)
    details = join_details(details, family.describe_errors(test, ours))
    details = join_details(details, family.describe_model(work.model.eval(), context.objective))
    details["pictures"] = family.pictures(work.model, work.objective, test, ours)
    context.run.add_findings(*family.findings(ours, experiment.objective))
    if family.generates:
        details |= compare_answers(context, work, test)
    promised, kept = promise_errors(outputs, held_out, ours)
    return found, details | promised, Shipped(abstention=kept)


def judge_candidates(context: RunContext, experiment: Experiment, work: Work) -> tuple[dict[str, Any], dict[str, Any], Shipped]:
    """The candidate that the validation rows choose, against those that are simpler."""
    train, validation = context.examples("train"), context.examples("validation")
    assert context.base is not None
    with Features(context, experiment, work.model) as features:
        probe_rows, words_rows = read_planned_rows(context.run)
        candidates = fit_candidates(context, work, features, probe_rows)
        context.signals.poll()
        trivial = context.family.baselines(train, validation, baseline_context(context, experiment, words_rows))
        context.signals.poll()
        test = open_test(context, experiment, work)
        scores, before = score_candidates(candidates, work, test, context.signals.poll)
    others = {rival.name: rival.score(test) for rival in trivial}
    shipped = candidates.shipped
    if candidates.outputs.fits_thresholds(context.objective):
        scores, others, shipped = apply_fitted_thresholds(context, candidates, scores, trivial, others)
    ours, metrics = scores[candidates.ships], metrics_at_verdict(work.objective.metrics, context.family)
    outputs, rows = candidates.outputs, baselines.share_of_rows(candidates.probe_rows, len(train))
    base = f"{context.base.name}, frozen + {outputs.probe}{rows}", scores[PROBE]
    found = decide(context.family.name, metrics, ours, base, others, against_base=candidates.ships != PROBE)
    found |= {"ships": candidates.ships, "why": candidates.why, "candidates": []}
    found["candidates"] = list_candidates(candidates, metrics, scores, {PROBE: found["base"], candidates.ships: found["test"]})
    other = TRAINED if candidates.ships == PROBE else PROBE
    details = _rows(context, work, test, ours, (candidates.names[other], scores[other])) | context.family.details(
        ours, experiment.objective
    )
    save_scores(context.run, outputs, candidates.validation, {**scores, **others})
    name_never_predicted(context, find_never_predicted(ours), "test")
    if outputs.calibrated:
        details["temperature"] = candidates.temperatures[candidates.ships]
    promised, kept = promise_errors(outputs, candidates.validation[candidates.ships], ours)
    details |= outputs.describe_calibration(before[candidates.ships], ours) | promised
    return found, details, replace(shipped, abstention=kept)


def promise_errors(outputs: Outputs | None, validation: Scores | None, test: Scores) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What can be promised of its answers where unsure ones are left out, from the validation rows alone, and what that gave on the test rows.

    Args:
        outputs: what those of the model mean; None where nothing is known of them.
        validation: what ships, on the validation rows.
        test: the same on the test rows.

    Returns:
        Details for the report, and what the bundle keeps; nothing and None where no answer can be left out.
    """
    if outputs is None or validation is None or not outputs.abstains:
        return {}, None
    (sure, right), (tested, found) = ((outputs.confidence(scores), outputs.right_rows(scores)) for scores in (validation, test))
    assert sure is not None and right is not None and tested is not None and found is not None
    abstention = tabulate_abstention(sure, right)
    return {"abstention": describe_abstention(abstention, tested, found)}, abstention.as_json()


def apply_fitted_thresholds(
    context: RunContext, candidates: Candidates, scores: Mapping[str, Scores], trivial: Sequence[Baseline], others: Mapping[str, Scores]
) -> tuple[dict[str, Scores], dict[str, Scores], Shipped]:
    """The scores on the test rows where each model says a label from its own threshold on, fitted on the validation rows; baselines too.

    Args:
        context: of the run; the thresholds of what ships are an event.
        candidates: with their validation scores.
        scores: of each on the test rows.
        trivial: the baselines, with their validation scores.
        others: of each on the test rows.

    Returns:
        Scores of the candidates and of the baselines, and what ships.
    """
    fit = candidates.outputs.fit_thresholds
    thresholds = {name: fit(candidates.validation[name]) for name in scores}
    theirs = {rival.name: fit(rival.validation) for rival in trivial}
    fitted_thresholds = thresholds[candidates.ships]
    context.run.event("fitted_thresholds", labels=context.dataset.labels, thresholds=fitted_thresholds)
    found = (
        {name: apply_thresholds(each, known[name]) for name, each in held.items()}
        for held, known in ((scores, thresholds), (others, theirs))
    )
    ours, baseline_scores = found
    return ours, baseline_scores, replace(candidates.shipped, fitted_thresholds=fitted_thresholds)


def join_details(details: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What the report shows, with more of it: lists, such as the tables, are put together."""
    both = {name: [*details[name], *value] for name, value in more.items() if isinstance(value, list) and name in details}
    return details | more | both


def baseline_context(context: RunContext, experiment: Experiment, most_rows: int = 1 << 40) -> baselines.BaselineContext:
    """What the family fits its trivial models with."""
    return baselines.BaselineContext(
        experiment.data.input, len(context.dataset.labels), context.tokenizer, context.objective, most_rows, context.signals.poll
    )


def save_scores(place: Run, outputs: Outputs, validation: Mapping[str, Scores], test: Mapping[str, Scores]) -> None:
    """Keep what each candidate and baseline lost on each row and, where it can be, whether it was right: what paired comparisons need.

    Args:
        place: candidate_scores.safetensors goes there.
        outputs: what those of the candidates mean.
        validation: name → scores on the validation rows.
        test: name → scores on the test rows.
    """
    tensors: dict[str, np.ndarray] = {}
    for part, found in (("validation", validation), ("test", test)):
        for name, scores in found.items():
            tensors[f"{part}.{name}.loss"] = scores.loss
            right = outputs.right_rows(scores)
            if right is not None:
                tensors[f"{part}.{name}.right"] = right.astype(np.uint8)
    write_file(place.folder / "candidate_scores.safetensors", save(tensors))


def open_test(context: RunContext, experiment: Experiment, work: Work) -> Sequence[Example]:
    """The sealed rows, noted as opened; what frozen blocks say of them is kept for the models that share these."""
    context.run.event("test_opened", rows=len(context.dataset.records["test"]))
    test = context.examples("test")
    work.model.frozen_cache = make_frozen_cache(experiment, work.model, test, getattr(torch, experiment.training.dtype), {})
    return test


def list_candidates(
    candidates: Candidates, metrics: tuple[str, ...], scores: Mapping[str, Scores], known: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each candidate with its validation and test scores, for verdict.json.

    Args:
        candidates: with their validation scores.
        metrics: the first decides.
        scores: of each on the test rows.
        known: value and interval on the test rows where they have been computed already.
    """
    metric = metrics[0]

    def describe_tested(name: str) -> dict[str, Any]:
        found = known[name] if name in known else describe_model(metrics, name, scores[name])
        return {"metric": metric, **{key: found[key] for key in ("value", "low", "high")}}

    return [
        {
            "name": name,
            "label": candidates.names[name],
            "validation": {metric: measure(candidates.validation[name], (metric,))[metric]},
            "test": describe_tested(name),
            **({"temperature": candidates.temperatures[name]} if candidates.outputs.calibrated else {}),
            "chosen": name == candidates.ships,
        }
        for name in scores
    ]


def budget_cut(place: Run) -> dict[str, float] | None:
    """How far the budget cut the training, and the seconds that would have been enough; None where it did not."""
    before, late, planned, trained = (place.events_named(name) for name in ("cut_to_budget", "cut_while_training", "planned", "trained"))
    budget = place.events_named("created")[-1]["budget"]
    if not (before or late) or not planned or not trained or not budget:
        return None
    left = late[-1]["total"] if late else before[-1]["steps"]
    if trained[-1]["step"] < left:  # it had stopped earlier by itself
        return None
    forecast = planned[-1]["forecast"]
    wanted = before[-1]["wanted"] if before else planned[-1]["steps"]
    a_step = forecast["seconds"] / max(forecast["steps"], 1)  # the evaluations on the way included
    enough = budget + (wanted - left) * a_step * LEEWAY
    return {"steps": left, "wanted": wanted, "budget": budget, "enough": round(enough, 1)}


def _rows(
    context: RunContext, work: Work, test: Sequence[Example], ours: Scores, other: tuple[str, Scores] | None, shown: int = 8
) -> dict[str, Any]:
    """The rows it does worst and best on, with what another model loses there."""
    each = ours.loss / np.maximum(ours.count, 1)
    theirs = other[1].loss / np.maximum(other[1].count, 1) if other is not None else np.full(len(each), np.nan)
    told = np.flatnonzero(ours.count > 0)  # a row that was cut before its answer says nothing about the model
    labels: Any = getattr(work.experiment.objective, "labels", None)

    def row(position: int) -> dict[str, Any]:
        record = test[position].record
        found = {"file": Path(record.source).name, "line": record.row, "loss": each[position], "other_loss": theirs[position],
                 "input": [str(record.values.get(name) or "")[:600] for name in work.experiment.data.input]}  # fmt: skip
        target = context.family.target_text(test[position])
        if labels and ours.probabilities is not None:
            said = int(ours.probabilities[position].argmax())
            found |= {"target": target, "said": labels[said], "confidence": float(ours.probabilities[position, said])}
        else:
            said = context.family.predicted_text(ours, position)
            found |= {"target": target[:600], **({"said": said} if said else {})}
        return found

    order = told[np.argsort(-each[told], kind="stable")]
    return {"other": other[0] if other is not None else "", "worst": [row(position) for position in order[:shown]], "best": [row(position) for position in order[::-1][:shown]],
            "truncated": sum(example.facts.get("cut", 0) > 0 for example in test)}  # fmt: skip
