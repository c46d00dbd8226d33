"""What a temperature, a choice of what ships, and thresholds are worth where a row has several labels; what the choice is worth for numbers.

    python benchmarks/label_candidates.py RUN [RUN ...]

One line of JSON for each finished run: every candidate and baseline on validation and test rows, the loss before and after the temperature, the evaluations of the
training, and (of labels) the F1 on the test rows if each label had the threshold with the best F1 on the validation rows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from luthier.core.types import Scores
from luthier.delivery.bundle import open_bundle
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve


def score_bundle(folder: Path) -> dict[str, Scores]:
    """What ships says of the validation rows and of the test rows."""
    base = resolve(str(folder))
    assert base.bundle is not None
    family = family_of(base.bundle["task"])
    model, objective = open_bundle(base, family.load_processor(base, family.spec_class.model_validate(base.bundle["objective"])))
    records = load_dataset(Experiment.load(folder / "experiment.yaml").data, checks=()).records
    return {part: score(model, objective, objective.prepare(records[part])) for part in ("validation", "test")}


def best_thresholds(scores: Scores) -> np.ndarray:
    """For each label the threshold with the best F1 of it on these rows; one half where none is better, # (labels,)"""
    actual, thresholds = scores.more["actual"] >= 0.5, []
    for likely, there in zip(scores.more["predicted"].T, actual.T, strict=True):
        tried = [0.5, *sorted(set(likely[there].tolist()))]
        said = [likely >= each for each in tried]
        f1 = [2 * (one & there).sum() / max(one.sum() + there.sum(), 1) for one in said]
        thresholds.append(tried[int(np.argmax(f1))])
    return np.array(thresholds)


def move(scores: Scores, thresholds: np.ndarray) -> Scores:
    """The scores as if one half were at these thresholds."""
    said = (scores.more["predicted"] >= thresholds).astype(float)
    return Scores(scores.loss, scores.count, labels=scores.labels, more={**scores.more, "predicted": said})


def describe(folder: Path) -> dict[str, Any]:
    """See the module."""
    verdict, details = (json.loads((folder / f"{name}.json").read_text()) for name in ("verdict", "evaluation"))
    losses = {name.removesuffix(".loss"): float(loss.mean()) for name, loss in load_file(folder / "candidate_scores.safetensors").items() if name.endswith(".loss")}  # fmt: skip
    looks = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if '"evaluation"' in line]
    metric, scores = verdict["metric"], score_bundle(folder)
    found = {
        "run": folder.name,
        "verdict": verdict["verdict"],
        "ships": verdict["ships"],
        "test": verdict["test"],
        "difference": verdict["difference"],
        "candidates": [{key: each.get(key) for key in ("name", "validation", "test", "temperature")} for each in verdict["candidates"]],
        "trivial": {key: verdict["trivial"][key] for key in ("name", "value", "metrics")},
        "mean_losses": losses,
        "log_loss": details.get("log_loss"),
        "calibration_error": details.get("calibration_error"),
        "evaluations": [(line["step"], line["evaluation"][metric], line["evaluation"]["loss"]) for line in looks],
    }
    if scores["test"].more["predicted"].ndim == 2:
        thresholds = best_thresholds(scores["validation"])
        names = ("micro_f1", "label_macro_f1", "exact_match")
        found["thresholds"] = {"values": thresholds.round(3).tolist(), "at_one_half": measure(scores["test"], names),
                               "at_these": measure(move(scores["test"], thresholds), names)}  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for folder in parser.parse_args().runs:
        print(json.dumps(describe(folder)), flush=True)
