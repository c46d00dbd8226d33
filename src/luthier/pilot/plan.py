"""What a run will take, before it is paid for; and what would fit where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DoesNotFit, RunError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.words import size
from luthier.experiment import Changes, Experiment, as_assignments
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.pilot.stages.options import fill_from_rows, limit_to_positions, load_experiment

CHILD = "import sys; from luthier.core.collector import collect_seldom; collect_seldom(); from luthier.pilot.plan import measure_in_child; measure_in_child(sys.argv[1])"
HEADROOM = 0.9
"""Of the memory that is free, the share that may be planned with."""


@dataclass(frozen=True)
class RunEstimate:
    """A run before it is paid for.

    Args:
        forecast: as measured (see `training.forecast.Forecast`).
        available: bytes of memory that a run could have now.
        proposals: changes that make it fit, each "path=value", with the bytes it would need; empty where it fits.
    """

    forecast: dict[str, Any]
    available: int
    proposals: list[tuple[str, int]]

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return self.forecast["memory"] <= HEADROOM * self.available


def plan(experiment: str | Path | Experiment, *, set: Changes = (), seconds: float = 30.0, reporter: Reporter | None = None) -> RunEstimate:
    """Measure a few steps of an experiment in a process of its own, and say what the whole will take.

    Args:
        experiment: an experiment.yaml, a run folder, or the value itself (`luthier run DATA --plan-only` writes one).
        set: changes: {"optimizer.lr": 1e-4}, or "path=value", one or several.
        seconds: that the measuring may take, roughly.
        reporter: shows progress; None shows nothing.

    Raises:
        DoesNotFit: the memory does not suffice; the message proposes what would.
        LuthierError: the experiment or its rows cannot be read.
    """
    reporter = reporter or NullReporter()
    experiment = load_experiment(experiment).set(*as_assignments(set)).model_copy(update={"environment": {}})
    reporter.stage("data", experiment.data.path)
    load_dataset(experiment.data, checks=())  # what is wrong with it is said here, not in the child
    from luthier.training.devices import available_memory

    free = available_memory()
    reporter.stage("measuring", "a few steps, from the shortest to the longest")
    command = [sys.executable, "-c", CHILD, json.dumps({"experiment": experiment.yaml(), "seconds": seconds})]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        estimate = json.loads(process.stdout.strip().split("\n")[-1])
    except ValueError:
        estimate = {}
    if "problem" in estimate:
        raise RunError(estimate["problem"], estimate["remedy"])
    if not estimate and process.returncode < 0:
        raise DoesNotFit(
            f"measuring was ended by signal {-process.returncode}: there is not enough memory ({size(free)} are free)",
            _suggest_remedy(experiment, None, free),
        )
    if not estimate:
        raise RunError(f"measuring failed: {(process.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    result = RunEstimate(estimate, free, [])
    if result.fits:
        return result
    proposals = _proposals(estimate, free)
    raise DoesNotFit(
        f"the run needs about {size(estimate['memory'])}, and {size(free)} are free", _suggest_remedy(experiment, proposals, free)
    )


def measure_in_child(asked: str) -> None:
    """What the child does: measure, and say it as the last line."""
    from luthier.core.errors import LuthierError
    from luthier.models.store import resolve
    from luthier.training.assemble import assemble
    from luthier.training.devices import configure_torch, decide_device_fields
    from luthier.training.forecast import forecast

    question = json.loads(asked)
    configure_torch()
    try:
        import yaml

        experiment = Experiment.of(yaml.safe_load(question["experiment"]))
        dataset = load_dataset(experiment.data, checks=())
        experiment = fill_from_rows(experiment.replace("training.metric", "auto"), dataset)  # it takes no part in a step
        base = resolve(experiment.model.base) if experiment.model.base else None
        experiment = decide_device_fields(limit_to_positions(experiment, base)[0], base)
        work = assemble(experiment, base, family_of(dataset.spec.task).load_processor(base, experiment.objective, dataset), dataset.records)
        print(json.dumps(forecast(work, question["seconds"]).value()))
    except LuthierError as problem:
        print(json.dumps({"problem": problem.message, "remedy": problem.remedy}))


def _proposals(estimate: dict[str, Any], free: int) -> list[tuple[str, int]]:
    """What would fit, cheapest in quality first."""
    proposals = []
    room = HEADROOM * free - estimate["fixed"]
    if room > 0 and estimate["a_token"] > 0:
        tokens = int(room / estimate["a_token"])
        if 64 <= tokens < estimate["at_once"]:
            proposals.append((f"training.micro_batch_tokens={tokens}", int(estimate["fixed"] + tokens * estimate["a_token"])))
    state = 12 * estimate["moving"]  # gradients and two moments, 4 bytes each
    for change, share in (("adaptation.kind=freeze", 0.5), ("adaptation.kind=lora", 0.02)):
        need = int(estimate["memory"] - state * (1 - share))
        if need <= HEADROOM * free:
            proposals.append((change, need))
    return proposals


def _suggest_remedy(experiment: Experiment, proposals: list[tuple[str, int]] | None, free: int) -> str:
    if proposals:
        return "one of these would fit: " + "; ".join(f"--set {change} (about {size(need)})" for change, need in proposals)
    return (
        "take a smaller base than "
        + experiment.model.base
        + ", set adaptation.kind=lora with a small training.micro_batch_tokens, or free some memory"
    )
