"""From a run folder that knows what it wants to one that is finished; every stage can be the one that was interrupted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.core.errors import NoGo, RunError
from luthier.core.finding import Finding
from luthier.core.interfaces import Face, Watcher
from luthier.core.run import Clock, Run, write_file
from luthier.core.types import Example, Scores
from luthier.data.batches import steps_in_epoch
from luthier.data.intake import Intake
from luthier.delivery.bundle import write_bundle
from luthier.delivery.card import write_card
from luthier.delivery.report import write_report
from luthier.evaluation import baselines
from luthier.evaluation.baselines import Rival
from luthier.evaluation.metrics import calibration, confusion, measure, per_class, rouge_l
from luthier.evaluation.score import score
from luthier.evaluation.verdict import decide, finding
from luthier.experiment import Experiment
from luthier.models.generate import answers
from luthier.models.pretrained import load_tokenizer, pool
from luthier.models.store import Base, resolve
from luthier.training.assemble import assemble, load_model
from luthier.training.devices import choose_dtype, environment, exact
from luthier.training.smoke import Smoke, smoke
from luthier.training.steps import Work, moved
from luthier.training.train import fit
from luthier.training.watchers import Signals

GENERATED = 8
RESERVE_SHARE = 0.03


@dataclass
class Way:
    """What the stages of one run share.

    Args:
        place: the run.
        intake: its rows.
        face: is told.
        clock: seconds since the command began.
        signals: polled between pieces of work.
        base: resolved.
        tokenizer: the base's.
    """

    place: Run
    intake: Intake
    face: Face
    clock: Clock
    signals: Signals
    base: Base
    tokenizer: Any


def complete(place: Run, experiment: Experiment, intake: Intake, face: Face, clock: Clock, watchers: Sequence[Watcher]) -> None:
    """Take the run through every stage that it has not been through.

    Raises:
        NoGo: the small run says that the large one would be wasted.
        Stopped: a signal came; the run can be resumed.
    """
    exact()
    try:
        _through(place, experiment, intake, face, clock, watchers)
    except BaseException:
        with contextlib.suppress(OSError, RunError):  # the disk may be what failed
            place.event("interrupted", seconds=round(clock(), 2))
        raise


def _through(place: Run, experiment: Experiment, intake: Intake, face: Face, clock: Clock, watchers: Sequence[Watcher]) -> None:
    """Every stage, on one screen."""
    if place.verdict is not None and (place.folder / "bundle" / "luthier.json").exists():
        _finish(place, face, place.verdict)
        return
    with Signals() as signals:
        face.stage("base", experiment.model.base)
        base = resolve(experiment.model.base, face.say)
        experiment = _settled(place, experiment, base)
        way = Way(place, intake, face, clock, signals, base, load_tokenizer(base))
        rivals = _rivals(way, experiment)
        experiment = _planned(way, experiment, rivals)
        face.stage("train", f"{experiment.total_steps(len(intake.records['train'])):,} steps")
        work = assemble(experiment, base, way.tokenizer, intake.records)
        before = _samples(way, work, "before") if intake.spec.task == "chat" else []
        place.event("started", clock=clock())
        best = fit(place, work, face, signals, watchers)
        face.stage("verdict", f"{len(intake.records['test']):,} sealed rows")
        verdict = _judged(way, experiment, work, rivals, best, before)
        face.stage("bundle")
        counts = {part: len(rows) for part, rows in intake.records.items()}
        write_bundle(place.folder / "bundle", work.model, way.tokenizer, experiment, base, write_card(experiment, base, verdict, counts))
        verdict["seconds"] = round(_spent(place, clock), 2)
        place.write_json("verdict.json", verdict)
        _finish(place, face, verdict)


def _finish(place: Run, face: Face, verdict: dict[str, Any]) -> None:
    """The page for people, and the mark that nothing is left to do."""
    face.stage("report")
    write_report(place)
    place.event("finished", seconds=verdict["seconds"])
    face.finding(finding(verdict))


def _spent(place: Run, clock: Clock) -> float:
    """Seconds of this and all earlier, interrupted commands of the run."""
    return clock() + sum(event["seconds"] for event in place.happened("interrupted"))


def _settled(place: Run, experiment: Experiment, base: Base) -> Experiment:
    """Decide once what depends on the machine, or check that nothing of it has changed."""
    now = environment()
    if not experiment.environment:
        if experiment.model.fingerprint not in ("", base.fingerprint):
            raise RunError(
                f"the weights of {base.name} are not those this experiment was made for",
                "put the old base back, or empty model.fingerprint",
            )
        dtype = choose_dtype(experiment.training.dtype)
        settled = experiment.replace("training.dtype", dtype).replace("model.fingerprint", base.fingerprint)
        settled = settled.model_copy(update={"environment": now})
        write_file(place.folder / "experiment.yaml", settled.yaml())
        return settled
    differences = [
        f"{name}: was {experiment.environment.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if experiment.environment.get(name) != value
    ]
    if experiment.model.fingerprint != base.fingerprint:
        differences.append("model.base: the weights are not those the run began with")
    if differences:
        raise RunError("this is not the machine or the software the run began with; it would not give the same bits:\n  " + "\n  ".join(differences),
                       "resume where it began, or start a new run: `luthier train " + str(place.folder) + "/experiment.yaml`")  # fmt: skip
    return experiment


# the rivals


def _rivals(way: Way, experiment: Experiment) -> dict[str, Rival]:
    """Fit the rivals on the training rows; they are deterministic, so a resumed run fits them again."""
    way.face.stage("rivals", "what the trained model has to beat")
    spec: Any = experiment.objective
    objective = spec.open(way.tokenizer, experiment.data.input, experiment.data.target)
    train, validation = objective.prepare(way.intake.records["train"]), objective.prepare(way.intake.records["validation"])
    if way.intake.spec.task == "chat":
        return {"trivial": baselines.copier(train, validation, len(way.tokenizer))}
    classes = len(spec.labels)
    columns = experiment.data.input
    found = {"majority": baselines.majority(train, validation, classes), "words": baselines.words(train, validation, classes, columns)}
    way.signals.poll()
    found["base"] = baselines.frozen(way.base.name, _Features(way, experiment, objective), train, validation, classes)
    way.signals.poll()
    return found


class _Features:
    """The untouched base's pooled hidden states; the base is loaded for each call and not kept."""

    def __init__(self, way: Way, experiment: Experiment, objective: Any) -> None:
        self.way, self.experiment, self.objective = way, experiment, objective

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        """# (examples, width), each of unit length"""
        model = load_model(self.experiment, self.way.base).to(getattr(torch, self.experiment.training.dtype)).eval()
        order = sorted(range(len(examples)), key=lambda position: len(examples[position].tokens))
        found: list[np.ndarray] = []
        with torch.no_grad():
            for start in range(0, len(order), 128):
                self.way.signals.poll()
                batch = self.objective.collate([examples[position] for position in order[start : start + 128]], 0, 0)
                batch = moved(batch, next(model.parameters()).device)
                rows = pool(model.hidden(batch), batch.lengths, "last" if model.causal else "mean").float()
                found.append((rows / rows.norm(dim=1, keepdim=True)).cpu().numpy())
        return np.concatenate(found)[np.argsort(np.array(order), kind="stable")] * 4.0


# trying small, and planning


def _planned(way: Way, experiment: Experiment, rivals: dict[str, Rival]) -> Experiment:
    """The small run, its verdict, and what a time budget leaves of the epochs: decided once, then obeyed."""
    place, face = way.place, way.face
    created = place.happened("created")[-1]
    forced = bool(place.happened("forced"))
    if place.happened("planned"):
        return experiment
    face.stage("smoke", "a small run first")
    probe = rivals["base"].validation if "base" in rivals else None
    prior = rivals["majority"].validation if "majority" in rivals else None
    budget = created["budget"] or math.inf
    found = smoke(assemble(experiment, way.base, way.tokenizer, way.intake.records), face, probe, prior, limit=0.15 * budget)
    way.signals.poll()
    work = assemble(experiment, way.base, way.tokenizer, way.intake.records)
    if found.go or forced:
        experiment = _within(way, experiment, work, found, budget)
    forecast = _forecast(work, found, experiment, probe)
    findings = [*found.findings, forecast]
    place.find(*findings)
    for each in findings:
        face.finding(each)
    if not found.go and not forced:
        reasons = "; ".join(each.claim for each in found.findings if each.severity == "stop" and each.check != "smoke")
        place.event("no_go", reasons=reasons)
        remedy = next((each.remedy for each in found.findings if each.severity == "stop" and each.remedy), "")
        raise NoGo(f"no-go after a small run: {reasons}", f"{remedy}; or insist: `luthier resume {place.folder} --force`")
    write_file(place.folder / "experiment.yaml", experiment.yaml())
    place.event("planned", steps=experiment.total_steps(len(work.train)), seconds_a_token=found.seconds_a_token, forecast=forecast.evidence)
    return experiment


def _costs(work: Work, found: Smoke) -> tuple[float, float]:
    """Seconds of one training step, and of one look at the validation rows."""
    mean = sum(len(example.tokens) for example in work.train) / len(work.train)
    batch = min(work.experiment.training.batch_size, len(work.train))
    return mean * batch * found.seconds_a_token, sum(len(example.tokens) for example in work.validation) * found.seconds_a_scored_token


def _within(way: Way, experiment: Experiment, work: Work, found: Smoke, budget: float) -> Experiment:
    """Cut the steps to what the budget leaves after everything else."""
    if budget == math.inf:
        return experiment
    step, look = _costs(work, found)
    looks_a_step = experiment.training.evaluations_per_epoch / steps_in_epoch(len(work.train), experiment.training.batch_size)
    tests = len(way.intake.records["test"]) / max(len(work.validation), 1)
    closing = look * tests * (2 if way.intake.spec.task == "chat" else 2.5) + 3.0 + RESERVE_SHARE * budget
    closing += 2 * GENERATED * 64 * 0.03 if way.intake.spec.task == "chat" else 0
    left = budget - _spent(way.place, way.clock) - closing
    affordable = int(left / (step * 1.05 + (look + 0.3) * looks_a_step))
    wanted = experiment.total_steps(len(work.train))
    if affordable >= wanted:
        return experiment
    steps = max(1, affordable)
    way.place.event("cut_to_budget", wanted=wanted, steps=steps, budget=budget)
    way.face.say(f"the budget of {budget:.0f} s is enough for {steps:,} of {wanted:,} steps")
    return experiment.replace("training.steps", steps)


def _forecast(work: Work, found: Smoke, experiment: Experiment, probe: Scores | None) -> Finding:
    """Time and quality, before they are paid for."""
    step, look = _costs(work, found)
    total = experiment.total_steps(len(work.train))
    per_epoch = steps_in_epoch(len(work.train), experiment.training.batch_size)
    seconds = total * step + (total / per_epoch * experiment.training.evaluations_per_epoch + 1) * look
    name = work.objective.metrics[0]
    floor = measure(probe, (name,))[name] if probe is not None else found.findings[-1].evidence["after"][name]
    quality = f"validation {name} about {floor:.3f} or better" if probe is not None else f"validation {name} about {floor:.3f} or lower"
    return Finding(check="forecast", claim=f"{total:,} steps in about {seconds:.0f} s; {quality}",
                   evidence={"steps": total, "seconds": seconds, "metric": name, "expected": floor, "a_step": step, "an_evaluation": look})  # fmt: skip


# the verdict


def _judged(
    way: Way, experiment: Experiment, work: Work, rivals: dict[str, Rival], best: dict[str, Any], before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Open the sealed rows once, and compare."""
    place, task = way.place, way.intake.spec.task or ""
    place.event("test_opened", rows=len(way.intake.records["test"]))
    test = work.objective.prepare(way.intake.records["test"])
    ours = score(work.model, work.objective, test, poll=way.signals.poll)
    if task == "chat":
        untouched = load_model(experiment, way.base).to(getattr(torch, experiment.training.dtype)).eval()
        base = (f"{way.base.name}, untouched", score(untouched, work.objective, test, poll=way.signals.poll))
        del untouched
        trivial = {rivals["trivial"].name: rivals["trivial"].score(test)}
    else:
        base = (rivals["base"].name, rivals["base"].score(test))
        trivial = {rivals[name].name: rivals[name].score(test) for name in ("majority", "words")}
    verdict = decide(task, work.objective.metrics, ours, base, trivial)
    verdict |= {
        "checkpoint": best["step"],
        "validation": {name: best[name] for name in work.objective.metrics},
        "test_opened": len(place.happened("test_opened")),
    }
    details = _rows(work, test, ours, base[1])
    if task == "classification":
        spec: Any = experiment.objective
        assert ours.target is not None and ours.probabilities is not None
        details |= {
            "labels": list(spec.labels),
            "per_class": per_class(ours, spec.labels),
            "confusion": confusion(ours.target, ours.probabilities.argmax(1), len(spec.labels)).tolist(),
            "calibration": calibration(ours),
        }
    else:
        details |= _chat_samples(way, work, test, before)
    place.write_json("evaluation.json", details)
    place.find(finding(verdict))
    return verdict


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


def _chosen(examples: Sequence[Example]) -> list[Example]:
    """A few examples whose prompts and answers are short enough to be shown."""
    return sorted(examples, key=lambda example: len(example.tokens))[len(examples) // 8 :][:GENERATED]


def _samples(way: Way, work: Work, when: str) -> list[dict[str, Any]]:
    """What the model answers to a few validation prompts."""
    kept = [line for line in way.place.lines("samples.jsonl") if line.get("when") == when]
    if kept:
        return kept
    chosen = _chosen(work.validation)
    prompts = [[token for token, learned in zip(example.tokens, example.target, strict=True) if not learned] for example in chosen]
    limit = min(96, max(sum(example.target) for example in chosen) + 8)
    said = answers(work.model, way.tokenizer, prompts, limit)
    lines = [{"step": 0, "when": when, "row": example.record.row, "asked": example.facts["messages"][-2]["content"], "expected": example.facts["messages"][-1]["content"], "said": text}
             for example, text in zip(chosen, said, strict=True)]  # fmt: skip
    way.place.append("samples.jsonl", *lines)
    return lines


def _chat_samples(way: Way, work: Work, test: Sequence[Example], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The same prompts after training; and ROUGE-L on test rows whose references are short."""
    after = _samples(way, work, "after")
    shown = [{**then, "after": now["said"], "before": then["said"]} for then, now in zip(before, after, strict=True)]
    found: dict[str, Any] = {"samples": shown}
    lengths = [sum(example.target) for example in test]
    if float(np.median(lengths)) <= 64:
        chosen = _chosen(test)
        prompts = [[token for token, learned in zip(example.tokens, example.target, strict=True) if not learned] for example in chosen]
        said = answers(work.model, way.tokenizer, prompts, 96)
        values = [rouge_l(text, example.facts["messages"][-1]["content"]) for text, example in zip(said, chosen, strict=True)]
        found["rouge_l"] = {"value": float(np.mean(values)), "n": len(values)}
    return found
