"""The small run: a few dozen steps on a few hundred rows say whether the large run is worth its time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from luthier.core.finding import Finding
from luthier.core.interfaces import Objective, Reporter
from luthier.core.randomness import permutation
from luthier.core.types import Example, Scores, Step
from luthier.core.words import plural
from luthier.evaluation.compare import paired_interval
from luthier.evaluation.generated_answers import add_answers
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import reads_answers, score
from luthier.evaluation.temperature_scaled import has_labels, temperature_scaled_loss
from luthier.optim.schedules import Constant
from luthier.training.steps import Work, steps

FEWEST_ROWS = 200
FEWEST_STEPS = 30
SHORTEST_SMALL_RUN = 8
"""Steps of a small run at the least; it has fewer than `FEWEST_STEPS` where the run itself has, or where the time is short."""
SHARE = 0.05
KNOWS = 0.8
"""Below this share of the loss of guessing, a network knows the classes before the first step."""
LONG_ROWS = 64
"""Where rows have more tokens than this on average, the small run takes a quarter of them a step: it must stay small."""


@dataclass(frozen=True)
class Smoke:
    """What the small run found.

    Args:
        go: whether the large run should start.
        findings: the reasons.
        seconds_a_token: of training, in the median step.
        seconds_a_scored_token: of evaluation.
        seconds: the small run took.
        tokens: that may go through the model at once, where memory did not suffice for what was asked; else 0.
    """

    go: bool
    findings: list[Finding]
    seconds_a_token: float
    seconds_a_scored_token: float
    seconds: float
    tokens: int = 0


def run_small(
    work: Work, reporter: Reporter, probe: Scores | None, prior: Scores | None, untold: str = "", limit: float = math.inf
) -> Smoke:  # fmt: skip
    """Run small and judge; `work` is used up by it.

    Args:
        work: assembled for this purpose.
        reporter: shows progress.
        probe: scores of a linear model on the frozen base, on the validation rows; None where there is none.
        prior: scores of who has not read the row, on the validation rows.
        untold: what to say where the first are no better.
        limit: seconds after which the steps end early (at `SHORTEST_SMALL_RUN` at the soonest).
    """
    began = time.monotonic()
    small = _make_small_work(work)
    examples = small.validation[:FEWEST_ROWS]
    tokens = sum(example.size for example in examples)
    before = score(small.model, small.objective, examples, answers=0)
    weights = {name: master.clone() for name, master in small.masters.weights().items()}
    history: list[Step] = []
    times: list[float] = []
    last = time.monotonic()
    for step in steps(small):
        now = time.monotonic()
        times.append((now - last) / max(step.tokens, 1))
        last = now
        history.append(step)
        reporter.step(step)
        if not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm)) or (
            now - began > limit and len(history) >= SHORTEST_SMALL_RUN
        ):
            break
    scoring = time.monotonic()
    after = score(small.model, small.objective, examples, answers=0)
    scoring = (time.monotonic() - scoring) / tokens  # the second time: the first is slower, and only once
    if reads_answers(work.objective, work.validation):
        after, answering = _with_answers(small, examples, after, reporter)
        scoring += answering / sum(example.size for example in work.validation)  # the same for each evaluation, whatever its rows
    findings = [
        finding
        for finding in (
            _count_cut_rows(work),
            _nothing_learned(history),
            not_finite(history),
            _head_stuck(small, weights),
            _nothing_moved(small, weights),
            lr_too_high(small, history, before, after),
            _labels_unpredictable(probe, prior, untold),
            _answers_unrelated(small, examples) if probe is None else None,
        )
        if finding is not None
    ]
    go = not any(finding.severity == "stop" for finding in findings)
    findings.append(_conclusion(go, small, len(history), before, after, probe))
    return Smoke(
        go, findings, float(np.median(times[2:] or times)), scoring, time.monotonic() - began, min(small.shrunk.values(), default=0)
    )


def _conclusion(go: bool, small: Work, steps_run: int, before: Scores, after: Scores, probe: Scores | None) -> Finding:
    """Go or no-go, with the validation scores before and after so many steps."""
    name = small.objective.metrics[0]
    then = measure(before, (name, "loss") if before.outputs is not None or after.outputs is None else ("loss",))
    now = measure(after, (name, "loss"))
    evidence = {
        "steps": steps_run,
        "rows": len(small.train),
        "before": then,
        "after": now,
        **({"probe": measure(probe, (name, "loss"))} if probe else {}),
    }
    claim = f"{'go' if go else 'no-go'}: after {plural(steps_run, 'step')} on {plural(len(small.train), 'row')} the validation loss went from {then['loss']:.4f} to {now['loss']:.4f}"
    return Finding(check="smoke", severity="good" if go else "stop", claim=claim, evidence=evidence,
                   remedy="" if go else "mend what is named above, or insist with --force")  # fmt: skip


def _with_answers(small: Work, examples: Sequence[Example], scores: Scores, reporter: Reporter) -> tuple[Scores, float]:
    """The scores with generated answers, and the seconds that those took."""
    began = time.monotonic()
    result = add_answers(scores, small.model, small.objective, examples, small.objective.answered)
    rows = min(small.objective.answered, len(small.validation))
    seconds = (time.monotonic() - began) * rows / max(1, min(rows, len(examples)))
    name = small.objective.metrics[0]
    reporter.say(f"each evaluation also generates {rows} answers: about {max(1, round(seconds))} s, because {name} decides")
    return result, seconds


def _make_small_work(work: Work) -> Work:
    """The same parts over a sample of the rows, at a learning rate that rises and stays."""
    count = min(len(work.train), max(FEWEST_ROWS, round(SHARE * len(work.train))))
    experiment = work.experiment
    chosen = sorted(permutation(len(work.train), experiment.seed, "smoke")[:count])
    long = sum(example.size for example in work.train) > LONG_ROWS * len(work.train)
    batch = max(1, experiment.training.batch_size // 4) if long else experiment.training.batch_size
    training = experiment.training.model_copy(update={"batch_size": batch})
    schedule = Constant(warmup=0.1)
    total = FEWEST_STEPS if long else max(FEWEST_STEPS, -(-count // batch))
    total = min(total, max(FEWEST_STEPS, work.total // 5), max(SHORTEST_SMALL_RUN, work.total))
    changed = experiment.model_copy(update={"training": training, "schedule": schedule})
    return work.shorten(changed, [work.train[position] for position in chosen], total)


def _count_cut_rows(work: Work) -> Finding | None:
    """Rows that are longer than what is read of them."""
    cut = [example for example in work.train if example.facts.get("cut", 0) > 0]
    if not cut:
        return None
    silent = [example for example in cut if not example.units]
    lost = f", and {len(silent):,} of them lose their whole answer" if silent else ""
    return Finding(
        check="smoke.cut",
        severity="warning" if silent or len(cut) > 0.05 * len(work.train) else "note",
        claim=f"{len(cut):,} of {len(work.train):,} training rows are longer than objective.max_length and lose their end{lost}",
        evidence={"cut": len(cut), "without_answer": len(silent), "rows": [example.record.row for example in cut[:10]]},
        remedy="raise objective.max_length, shorten the rows, or (for a classifier) read them in pieces: --set objective.long_rows=windows",
    )


def _nothing_learned(history: Sequence[Step]) -> Finding | None:
    empty = [step.number for step in history if step.count == 0]
    if not empty:
        return None
    severity = "stop" if len(empty) > len(history) / 2 else "warning"
    return Finding(check="smoke.masked", severity=severity, claim=f"in {len(empty)} of {plural(len(history), 'step')} there was nothing to learn: every target is masked",
                   evidence={"steps": empty[:10]}, remedy="check that the rows have answers, and that objective.max_length does not cut them off")  # fmt: skip


def not_finite(history: Sequence[Step]) -> Finding | None:
    """A loss or a gradient is no number."""
    bad = [step for step in history if step.count and not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm))]
    if not bad:
        return None
    return Finding(check="smoke.finite", severity="stop", claim=f"the loss was {bad[0].loss} at step {bad[0].number}",
                   evidence={"step": bad[0].number, "learning_rate": bad[0].lr}, remedy="lower optimizer.lr by ten times")  # fmt: skip


def _largest_change(work: Work, weights: dict[str, torch.Tensor], names: Sequence[str]) -> float:
    """The largest change of any of these weights, relative to its size."""
    now = work.masters.weights()
    sizes = [(float((now[name] - weights[name]).norm()), float(weights[name].norm())) for name in names if name in now]
    return max((change / (size + 1e-12) if size else change for change, size in sizes), default=0.0)


def _head_stuck(work: Work, weights: dict[str, torch.Tensor]) -> Finding | None:
    heads = getattr(work.model, "head", [])
    names = {id(parameter): name for name, parameter in work.model.network.named_parameters()}
    own = [names[id(parameter)] for module in heads for parameter in module.parameters() if id(parameter) in names]
    if not own or _largest_change(work, weights, own) > 1e-6:
        return None
    return Finding(check="smoke.head", severity="stop", claim="the head is new and did not move: it would answer at random for ever",
                   evidence={"parameters": own}, remedy="let the head's parameters be trained, and check optimizer.head_lr")  # fmt: skip


def _nothing_moved(work: Work, weights: dict[str, torch.Tensor]) -> Finding | None:
    moved = _largest_change(work, weights, list(weights))
    if moved > 1e-6:
        return None
    return Finding(check="smoke.still", severity="stop", claim="no weight moved", evidence={"largest_relative_change": moved},
                   remedy="raise optimizer.lr, and check adaptation")  # fmt: skip


def lr_too_high(work: Work, seen: Sequence[Step], before: Scores, after: Scores) -> Finding | None:
    """The loss ends above where it began, or above what class shares alone would give."""
    tail = [step.loss for step in seen[-max(1, len(seen) // 3) :] if math.isfinite(step.loss)]
    if not tail:
        return None
    began, ended = measure(before, ("loss",))["loss"], measure(after, ("loss",))["loss"]
    if has_labels(
        after
    ):  # whose head begins with all that a linear model tells: a sample learned by heart only makes it too sure, and a temperature is fitted
        ended = float(temperature_scaled_loss(after).mean())
    guessing = began
    if before.probabilities is not None:
        shares = np.array(list(Counter(example.target for example in work.train).values())) / len(work.train)
        guessing = float(-(shares * np.log(shares)).sum())
    floor = min(began, guessing)
    late = float(np.mean(tail))
    learning = late < 0.9 * began  # then a higher loss on held-out rows is a small sample learned by heart, not too high a learning rate
    allowed = 1.5 * began if learning else max(1.1 * floor, 1.05 * began)
    # on rows it has not seen: those of the last steps are few, and harder or easier
    below = ended < (floor * 0.95 if before.probabilities is not None else began)
    learned = below and paired_interval("loss", after, before)[1] > 0
    # squared errors and sums over labels differ so much between rows that those of a few held-out ones do not say where the training rows began
    first = max(began, float(np.mean([step.loss for step in seen[: max(1, len(seen) // 3)]]))) if before.more else began
    if learned or (
        late <= 1.05 * first and (ended <= allowed or (max(began / KNOWS, ended) < guessing and _as_often_right(before, after)))
    ):
        return None
    return Finding(check="smoke.learning_rate", severity="stop", claim=f"the loss rose: {began:.3f} before, {ended:.3f} after, {np.mean(tail):.3f} on the last training steps",
                   evidence={"before": began, "after": ended, "learning_rate": work.masters.spec.lr}, remedy=f"lower the learning rate: --set optimizer.lr={work.masters.spec.lr / 10:.0e}")  # fmt: skip


def _as_often_right(before: Scores, after: Scores) -> bool:
    """Whether a classifier that knew the classes before step one is not right less often, beyond noise.

    A head that begins as a linear probe is surest of the rows it was fitted on; as soon as the features move, its loss on other rows rises,
    by half and more, while it is right as often as before. Where the learning rate is too high it is right less often.
    """
    return before.probabilities is not None and paired_interval("accuracy", before, after)[1] <= 0


def _labels_unpredictable(probe: Scores | None, prior: Scores | None, untold: str) -> Finding | None:
    if probe is None or prior is None:
        return None
    value, low, _ = paired_interval("loss", probe, prior)
    if low > 0:
        return None
    return Finding(check="smoke.labels", severity="warning", claim=untold,
                   evidence={"gain_in_nats": value, "low": low, "validation_rows": len(probe.loss)},
                   remedy="check that the labels belong to their rows (a shuffled or shifted column looks like this), or give more rows")  # fmt: skip


def _answers_unrelated(work: Work, examples: Sequence[Example]) -> Finding | None:
    """Whether an answer is likelier after its own prompt than after another row's; a network from scratch cannot know that after so few steps."""
    if not work.experiment.model.base:
        return None
    objective: Objective = work.objective
    rows = [example for example in examples if example.size <= 400][:12]
    swapped = objective.swap_inputs(rows)
    if len(rows) < 6 or not swapped:
        return None
    value, low, _ = paired_interval("loss", score(work.model, objective, rows, answers=0), score(work.model, objective, swapped, answers=0))
    if low > 0:
        return None
    return Finding(check="smoke.answers", severity="warning", claim="what is to be written is no likelier after its own input than after another row's",
                   evidence={"gain_in_nats": value, "low": low, "rows": len(rows)}, remedy="check that inputs and targets belong together (a shuffled or shifted column looks like this)")  # fmt: skip
