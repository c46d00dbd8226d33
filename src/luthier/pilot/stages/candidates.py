"""What a run with a head on a base could ship: the trained model, a linear model on the untouched base, or their average; validation rows choose."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.core.types import Example, Scores
from luthier.delivery.bundle import Shipped
from luthier.evaluation import baselines
from luthier.evaluation.candidate_choice import choose_candidate
from luthier.evaluation.metrics import measure
from luthier.evaluation.outputs import Outputs
from luthier.evaluation.score import score
from luthier.evaluation.verdict import format_value
from luthier.models.linear_probe import LinearProbe, divide_logits
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.features import Features
from luthier.training.steps import Work

TRAINED, PROBE, AVERAGE = "trained", "probe", "average"


@dataclass(frozen=True)
class Candidates:
    """What could ship, each at its own temperature, and what does.

    Args:
        ships: trained, probe or average.
        why: one line for a person.
        temperatures: of each.
        validation: the scores of each on the validation rows.
        seconds: that each took beyond training.
        probe_rows: training rows that the probe was fitted on.
        probe: with its temperature; its base is in memory as long as the features are.
        outputs: what those of all of them mean.
    """

    ships: str
    why: str
    temperatures: Mapping[str, float]
    validation: Mapping[str, Scores]
    seconds: Mapping[str, float]
    probe_rows: int
    probe: LinearProbe
    outputs: Outputs

    @property
    def names(self) -> dict[str, str]:
        """Each for a person."""
        return name_candidates(self.outputs)

    @property
    def shipped(self) -> Shipped:
        """For the bundle."""
        return Shipped(self.ships, self.temperatures[self.ships], None if self.ships == TRAINED else self.probe)


def fit_candidates(context: RunContext, work: Work, features: Features, most_rows: int = baselines.MOST) -> Candidates:
    """Fit the linear probe and the temperatures, and let the validation rows choose; the trained model is at its temperature then.

    Args:
        context: knows the rows, and what the outputs mean.
        work: its model holds the chosen checkpoint; its logits are divided by its temperature.
        features: of the untouched base, in memory.
        most_rows: training rows that the probe is fitted on, about.
    """
    outputs = context.outputs
    assert outputs is not None
    began = time.monotonic()
    train, validation = context.examples("train"), context.examples("validation")
    fitted = outputs.fit_probe(features, context.objective, train, validation, most_rows, context.signals.poll)
    probe_seconds = time.monotonic() - began
    context.signals.poll()
    raw = {TRAINED: score(work.model, work.objective, validation, poll=context.signals.poll), PROBE: fitted.validation}
    temperatures = {name: outputs.fit_temperature(scores) for name, scores in raw.items()}
    calibrated = {name: outputs.apply_temperature(scores, temperatures[name]) for name, scores in raw.items()}
    both = outputs.average_scores(calibrated[TRAINED], calibrated[PROBE])
    temperatures[AVERAGE] = outputs.fit_temperature(both)
    calibrated[AVERAGE] = outputs.apply_temperature(both, temperatures[AVERAGE])
    divide_logits(work.model, temperatures[TRAINED])
    probe = LinearProbe(features.model, torch.from_numpy(fitted.weight), torch.from_numpy(fitted.bias), temperatures[PROBE])
    metric = work.objective.metrics[0]
    choice = work.experiment.training.ships
    ships = choose_candidate(calibrated, metric) if choice == "auto" else choice
    why = explain_choice(ships, metric, calibrated, name_candidates(outputs), choice != "auto")
    context.reporter.say(why)
    context.run.event("ships", candidate=ships, metric=metric, temperatures=temperatures, probe_rows=fitted.rows,
                    probe_seconds=round(probe_seconds, 2), validation={name: measure(scores, (metric, "loss")) for name, scores in calibrated.items()})  # fmt: skip
    seconds = {TRAINED: 0.0, PROBE: probe_seconds, AVERAGE: probe_seconds}
    return Candidates(ships, why, temperatures, calibrated, seconds, fitted.rows, probe, outputs)


def name_candidates(outputs: Outputs) -> dict[str, str]:
    """Each candidate for a person.

    Args:
        outputs: what those of the candidates mean.
    """
    trained, probe = "the trained model", f"{outputs.probe} on the untouched base"
    return {TRAINED: trained, PROBE: probe, AVERAGE: f"the average of {trained} and {probe}"}


def explain_choice(ships: str, metric: str, validation: Mapping[str, Scores], names: Mapping[str, str], asked: bool = False) -> str:
    """Which candidate ships, and what the validation rows said of all, in one line.

    Args:
        ships: trained, probe or average.
        metric: that decides.
        validation: the scores of each on the validation rows.
        names: of each, for a person.
        asked: whether a person chose it, not the validation rows.
    """
    values = {name: format_value(metric, measure(scores, (metric,))[metric]) for name, scores in validation.items()}
    start = "ships, as set" if asked else "ships"
    if ships == AVERAGE:
        return f"{start}: the average of {names[TRAINED]} (validation {metric} {values[TRAINED]}) and {names[PROBE]} ({values[PROBE]}): {values[AVERAGE]}"
    others = ", ".join(f"{'their average' if name == AVERAGE else names[name]}: {values[name]}" for name in values if name != ships)
    return f"{start}: {names[ships]} (validation {metric} {values[ships]}; {others})"


def score_candidates(candidates: Candidates, work: Work, test: Sequence[Example], poll: Any) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Every candidate on the test rows, once; the average is that of what the two said.

    Args:
        candidates: with the probe.
        work: its model is at its temperature.
        test: the sealed rows.
        poll: called between batches.

    Returns:
        The scores of each at its temperature, and as they would be without any.
    """
    probe, temperatures, outputs = candidates.probe, candidates.temperatures, candidates.outputs
    probe.base.frozen_cache = work.model.frozen_cache  # frozen blocks say the same in both
    model_scores = {model: score(module, work.objective, test, poll=poll) for model, module in ((TRAINED, work.model), (PROBE, probe))}
    before = {name: outputs.apply_temperature(scores, 1 / temperatures[name]) for name, scores in model_scores.items()}
    both = outputs.average_scores(model_scores[TRAINED], model_scores[PROBE])
    model_scores[AVERAGE] = outputs.apply_temperature(both, temperatures[AVERAGE])
    before[AVERAGE] = outputs.average_scores(before[TRAINED], before[PROBE])
    return model_scores, before
