"""A training without what surrounds it: no proofs, no small run, no report. For scripts that need many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.interfaces import Silent
from luthier.core.run import Clock, Run
from luthier.data.intake import Intake
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.evaluation.tempered import tempered
from luthier.experiment import Experiment
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.pilot.way import Way
from luthier.training.assemble import opened
from luthier.training.train import Fit
from luthier.training.watchers import Signals


def way(folder: Path, intake: Intake, experiment: Experiment, signals: Signals) -> Way:
    """What trainings on the same rows and the same base share."""
    base = resolve(experiment.model.base)
    tokenizer = load_tokenizer(base)
    return Way(Run.create(folder), intake, Silent(), Clock(), signals, base, tokenizer, opened(experiment, tokenizer))


def fit(shared: Way, folder: Path, experiment: Experiment) -> Fit:
    """A training in the folder; it goes on from what lies there."""
    place = Run(folder) if folder.exists() else Run.create(folder)
    return Fit(place, shared.work(experiment), Silent(), shared.signals)


def told(shared: Way, training: Fit) -> dict[str, Any]:
    """How the best weights of a training, which goes to its end now, do on the validation and test rows."""
    training.finish()
    found: dict[str, Any] = {"steps": training.done}
    for part in ("validation", "test"):
        scores = score(training.work.model, training.work.objective, shared.examples(part))
        found |= {f"{part}_{name}": round(value, 4) for name, value in measure(scores, ("accuracy", "loss")).items()}
        found[f"{part}_tempered"] = round(float(tempered(scores).mean()), 4)
    return found
