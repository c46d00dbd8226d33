"""From a trained model to a verdict on the sealed rows, a bundle, and a page."""

from __future__ import annotations

from typing import Any

from luthier.core.interfaces import Face
from luthier.core.run import Run
from luthier.core.words import plural
from luthier.delivery.bundle import write_bundle
from luthier.delivery.card import write_card
from luthier.delivery.report import write_report
from luthier.evaluation.verdict import finding
from luthier.experiment import Experiment
from luthier.pilot.stages.judging import judged
from luthier.pilot.stages.unpredicted import missed_at, name_never_predicted
from luthier.pilot.stages.way import Way
from luthier.training import checkpoints
from luthier.training.steps import Work


def concluded(way: Way, experiment: Experiment, work: Work, best: dict[str, Any]) -> None:
    """From a trained model to a verdict, a bundle and a report.

    Args:
        way: of the run.
        experiment: as it was trained.
        work: its model holds the chosen checkpoint.
        best: the evaluation that chose it.
    """
    place, face = way.place, way.face
    name_never_predicted(way, missed_at(place, best["step"]), "validation")
    face.stage("verdict", plural(len(way.intake.records["test"]), "sealed test row"))
    verdict, shipped = judged(way, experiment, work, best)
    face.stage("bundle")
    counts = {part: len(rows) for part, rows in way.intake.records.items()}
    card = write_card(experiment, way.base, verdict, counts)
    write_bundle(place.folder / "bundle", work.model, way.tokenizer, experiment, way.base, card, shipped)
    verdict["seconds"] = round(way.spent, 2)
    if place.happened("inexact"):
        verdict["inexact"] = place.happened("inexact")[-1]["differences"]
    place.write_json("verdict.json", verdict)
    closed(place, face, verdict)


def closed(place: Run, face: Face, verdict: dict[str, Any]) -> None:
    """The page for people, and the mark that nothing is left to do."""
    face.stage("report")
    write_report(place)
    checkpoints.close(place, place.happened("trained")[-1]["best"]["step"])
    place.event("finished", seconds=verdict["seconds"])
    face.finding(finding(verdict))
