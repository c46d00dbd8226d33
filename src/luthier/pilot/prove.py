"""Prove the loss on the run's own rows, as a verb."""

from __future__ import annotations

from pathlib import Path

from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.proof import Proof
from luthier.experiment import Changes, Experiment, as_assignments
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.pilot.stages.options import limit_to_positions, load_experiment
from luthier.pilot.stages.prove import describe_proof, serving_function
from luthier.training.assemble import build, open_objective
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.prove import prove as proofs_of


def prove(
    experiment: str | Path | Experiment, *, set: Changes = (), seconds: float = 60.0, reporter: Reporter | None = None
) -> list[Proof]:
    """Prove the loss on an experiment's own rows and model, without training.

    Args:
        experiment: an experiment.yaml, a run folder, or the value itself (`luthier run DATA --plan-only` writes one).
        set: changes: {"optimizer.lr": 1e-4}, or "path=value", one or several.
        seconds: at most.
        reporter: shows progress; None shows nothing.

    Raises:
        LuthierError: the experiment or its rows cannot be read.
    """
    configure_torch()
    reporter = reporter or NullReporter()
    experiment = load_experiment(experiment).set(*as_assignments(set))
    reporter.stage("data", experiment.data.path)
    dataset = load_dataset(experiment.data)
    reporter.stage("base", experiment.model.base)
    base = resolve(experiment.model.base, reporter.say) if experiment.model.base else None
    experiment, shorter = limit_to_positions(experiment, base)
    if shorter is not None:
        reporter.say(f"{shorter.path} = {shorter.value}  ({shorter.reason})")
    tokenizer = family_of(dataset.spec.task).load_processor(base, experiment.objective, dataset)
    experiment = decide_device_fields(experiment, base)
    objective = open_objective(experiment, tokenizer)
    work = build(experiment, base, objective, objective.prepare(dataset.records["train"]), objective.prepare(dataset.records["validation"]))
    reporter.stage("proofs")
    proofs = proofs_of(work, serving_function(objective, experiment.data.task), seconds)
    for proof in proofs:
        reporter.say(describe_proof(proof))
    return proofs
