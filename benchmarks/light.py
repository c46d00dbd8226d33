"""A training without what surrounds it: no proofs, no small run, no report. For scripts that need many."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.interfaces import NullReporter
from luthier.core.randomness import mix
from luthier.core.run import Clock, Run
from luthier.core.types import Scores
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.evaluation.temperature_scaled import temperature_scaled_loss
from luthier.experiment import Experiment
from luthier.families.recognise import load_dataset
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.pilot.stages.context import RunContext
from luthier.studies.defaults import starting_experiment
from luthier.studies.propose import Tried, propose
from luthier.studies.space import Space, Values
from luthier.training.assemble import open_objective
from luthier.training.devices import decide_device_fields
from luthier.training.train import Fit
from luthier.training.watchers import Signals
from sets import files


def way(folder: Path, dataset: Dataset, experiment: Experiment, signals: Signals) -> RunContext:
    """What trainings on the same rows and the same base share."""
    base = resolve(experiment.model.base)
    tokenizer = load_tokenizer(base)
    return RunContext(Run.create(folder), dataset, NullReporter(), Clock(), signals, base, tokenizer, open_objective(experiment, tokenizer))


def fit(shared: RunContext, folder: Path, experiment: Experiment) -> Fit:
    """A training in the folder; it goes on from what lies there."""
    place = Run(folder) if folder.exists() else Run.create(folder)
    return Fit(place, shared.work(experiment), NullReporter(), shared.signals)


def tell(shared: RunContext, training: Fit) -> dict[str, Any]:
    """How the best weights of a training, which goes to its end now, do on the validation and test rows."""
    training.finish()
    found: dict[str, Any] = {"steps": training.done}
    for part in ("validation", "test"):
        found |= look(part, score(training.work.model, training.work.objective, shared.examples(part)))
    return found


def look(part: str, scores: Scores) -> dict[str, float]:
    """What a look at some rows says."""
    found = {**measure(scores, ("accuracy", "loss")), "tempered": float(temperature_scaled_loss(scores).mean())}
    return {f"{part}_{name}": round(value, 4) for name, value in found.items()}


def begin(
    data: Path, scratch: Path, name: str, rows: int, tested: int, seed: int, wrong: float = 0.0, base: str = ""
) -> tuple[Dataset, Experiment]:
    """The rows of a set, a fifth of them to choose by, and the default for them (and for a base); test rows keep their labels where a share of the others is wrong."""
    train, test = files(data, scratch, name, rows, tested)
    if wrong:
        _spoil(train, wrong)
    dataset = load_dataset(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
    experiment, _ = starting_experiment(dataset, resolve(base) if base else None, seed)
    return dataset, decide_device_fields(experiment)


def _spoil(path: Path, share: float) -> None:
    """Give so many rows another label, each other one alike likely."""
    with path.open(newline="") as handle:
        head, *rows = csv.reader(handle)
    labels = sorted({label for _, label in rows})
    draws = mix("wrong label", np.arange(2 * len(rows)))
    for number, row in enumerate(rows):
        if draws[2 * number] / 2.0**64 < share:
            row[1] = labels[(labels.index(row[1]) + 1 + int(draws[2 * number + 1] % (len(labels) - 1))) % len(labels)]
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([head, *rows])


def draw(space: Space, count: int, proposals: int) -> list[Values]:
    """The default, and points spread evenly over its prior, as a search of so many proposals begins."""
    tried: list[Tried] = []
    while len(tried) < count:
        tried.append(Tried(propose(space, "prior", 7, proposals, tried).values, 0.0, 1.0))
    return [past.values for past in tried]


def find_known(out: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The lines of a file by their key; none where there is no file yet."""
    lines = out.read_text().split("\n") if out.exists() else []
    return {tuple(found["key"]): found for found in map(json.loads, filter(None, lines))}


def note(out: Path, key: tuple[Any, ...], found: dict[str, Any]) -> None:
    """Print a line, and add it to the file."""
    line = json.dumps({"key": key, **found})
    print(line, flush=True)
    with out.open("a") as handle:
        handle.write(line + "\n")
