"""From a trained model to a verdict on the test rows, a bundle and a report."""

from __future__ import annotations

from typing import Any

from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.core.words import plural
from luthier.delivery.bundle import write_bundle
from luthier.delivery.card import write_card
from luthier.delivery.report import write_report
from luthier.evaluation.verdict import verdict_finding
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.pilot.stages.base_choice import ranks_bases
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.evaluate import evaluate_test
from luthier.pilot.stages.never_predicted import name_never_predicted, never_predicted_at
from luthier.training import checkpoints
from luthier.training.steps import Work


def judge_and_package(context: RunContext, experiment: Experiment, work: Work, best: dict[str, Any]) -> None:
    """From a trained model to a verdict, a bundle and a report.

    Args:
        context: of the run.
        experiment: as it was trained.
        work: its model holds the chosen checkpoint.
        best: the evaluation that chose it.
    """
    run, reporter = context.run, context.reporter
    name_never_predicted(context, never_predicted_at(run, best["step"]), "validation")
    reporter.stage("verdict", plural(len(context.dataset.records["test"]), "sealed test row"))
    verdict, shipped = evaluate_test(context, experiment, work, best)
    if run.events_named("inexact"):
        verdict["inexact"] = run.events_named("inexact")[-1]["differences"]
    reporter.stage("bundle")
    counts = {part: len(rows) for part, rows in context.dataset.records.items()}
    card = write_card(experiment, context.base, verdict, counts)
    write_bundle(run.folder / "bundle", work.model, context.tokenizer, experiment, context.base, card, shipped)
    verdict["seconds"] = round(context.spent, 2)
    run.write_json("verdict.json", verdict)
    finish(run, reporter, verdict)


def finish(place: Run, reporter: Reporter, verdict: dict[str, Any]) -> None:
    """The page for people, and the mark that nothing is left to do."""
    reporter.stage("report")
    write_report(place)
    checkpoints.keep_best_only(place, place.events_named("trained")[-1]["best"]["step"])
    place.event("finished", seconds=verdict["seconds"])
    reporter.finding(verdict_finding(verdict, ranks_bases(family_of(verdict["task"]))))
