"""Prove the loss before step one, and stop where a proof does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.core.interfaces import Objective
from luthier.core.proof import Proof
from luthier.core.types import Record
from luthier.core.words import plural
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.pilot.stages.context import RunContext
from luthier.training.prove import Disproved, find_disproved
from luthier.training.prove import prove as proofs_of

SECONDS = 20.0
SHARE = 0.05
MARKS = {True: "✓", False: "✗", None: "·"}


def prove_loss(context: RunContext, experiment: Experiment) -> None:
    """Prove the loss before step one, once a run; what was found is in proofs.json.

    Raises:
        Disproved: a proof failed; the row that speaks against it is named.
    """
    if (context.run.folder / "proofs.json").exists() and context.run.events_named("proven"):
        return
    context.reporter.stage("proofs", "the loss proves itself")
    budget = context.run.events_named("created")[-1]["budget"]
    seconds = min(SECONDS, SHARE * budget) if budget else SECONDS
    proofs = proofs_of(context.work(experiment), serving_function(context.objective, experiment.data.task), seconds)
    context.run.write_json("proofs.json", {"proofs": [proof.model_dump() for proof in proofs]})
    failed = list(find_disproved(proofs))
    passed = sum(proof.held is True for proof in proofs)
    untried = [proof.name for proof in proofs if proof.held is None]
    for proof in failed:
        context.reporter.say(describe_proof(proof))
    if failed:
        first = failed[0]
        where = f" ({first.evidence['file']}, line {first.evidence['line']})" if "file" in first.evidence else ""
        raise Disproved(f"disproved before step one: {first.name}: {first.claim}{where}",
                        f"nothing was trained; all proofs are in {context.run.folder / 'proofs.json'}. Mend what the proof names: the rows, the template or the base")  # fmt: skip
    context.reporter.say(f"{plural(passed, 'proof')} held" + (f"; not tried for lack of time: {', '.join(untried)}" if untried else ""))
    context.run.event("proven", held=passed, untried=untried)


def describe_proof(proof: Proof) -> str:
    """A proof in one line."""
    where = f" ({proof.evidence['file']}, line {proof.evidence['line']})" if proof.held is False and "file" in proof.evidence else ""
    return f"{MARKS[proof.held]} {proof.name}: {proof.claim}{where}"


def serving_function(objective: Objective, task: str | None) -> Callable[[Record], Any]:
    """A row → what `predict` gives the model: the same functions, without the target."""
    family = family_of(task)
    return lambda record: family.serving_inputs(record, objective)
