"""From a trained model to a verdict on the sealed rows, a bundle, and a page."""

from __future__ import annotations

from typing import Any

from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.core.words import plural
from luthier.delivery.bundle import write_bundle
from luthier.delivery.card import write_card
from luthier.delivery.report import write_report
from luthier.evaluation.verdict import finding
from luthier.experiment import Experiment
from luthier.pilot.stages.context import RunContext
from luthier.pilot.stages.judging import judged
from luthier.pilot.stages.unpredicted import missed_at, name_never_predicted
from luthier.training import checkpoints
from luthier.training.steps import Work


def concluded(context: RunContext, experiment: Experiment, work: Work, best: dict[str, Any]) -> None:
    """From a trained model to a verdict, a bundle and a report.

    Args:
        context: of the run.
        experiment: as it was trained.
        work: its model holds the chosen checkpoint.
        best: the evaluation that chose it.
    """
    place, reporter = context.run, context.reporter
    name_never_predicted(context, missed_at(place, best["step"]), "validation")
    reporter.stage("verdict", plural(len(context.dataset.records["test"]), "sealed test row"))
    verdict, shipped = judged(context, experiment, work, best)
    if place.happened("inexact"):
        verdict["inexact"] = place.happened("inexact")[-1]["differences"]
    reporter.stage("bundle")
    counts = {part: len(rows) for part, rows in context.dataset.records.items()}
    card = write_card(experiment, context.base, verdict, counts)
    write_bundle(place.folder / "bundle", work.model, context.tokenizer, experiment, context.base, card, shipped)
    verdict["seconds"] = round(context.spent, 2)
    place.write_json("verdict.json", verdict)
    closed(place, reporter, verdict)


def closed(place: Run, reporter: Reporter, verdict: dict[str, Any]) -> None:
    """The page for people, and the mark that nothing is left to do."""
    reporter.stage("report")
    write_report(place)
    checkpoints.close(place, place.happened("trained")[-1]["best"]["step"])
    place.event("finished", seconds=verdict["seconds"])
    reporter.finding(finding(verdict))
