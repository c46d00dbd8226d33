"""Is what a server says as sure as it is right, and does the error that it promises hold? Default runs on three sets are served and asked about their sealed rows.

    python benchmarks/serve_confidence.py --data DIR --out runs/serve-confidence

Every probability here came over HTTP (`/classify`); beside it stands what the run says of the same rows without a temperature. With `error_below` the server leaves
labels out: the share of the others that is wrong is compared with what was asked. Runs that are there are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

import luthier
from luthier.core.types import Scores
from luthier.evaluation.metrics import measure
from serve_http import Server, ours
from what_ships import give

TOGETHER = 32
PROMISES = (0.05, 0.1, 0.2)


def train(data: Path, out: Path, name: str, rows: int, seed: int) -> tuple[Path, Path]:
    """A finished default run, and the file of its sealed rows."""
    given, sealed = give(data, out, name, rows)
    folder = out / f"{name}-{rows}-{seed}"
    if not (folder / "verdict.json").exists():
        luthier.run(given, test=sealed, out=folder, seed=seed, set=[f"data.split_seed={seed}", "data.allow_leakage=true"], force=True)
    return folder, sealed


def ask(server: Server, texts: list[str], **options: Any) -> list[dict[str, Any]]:
    """What the server says of each text."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(texts), TOGETHER):
        status, said = server.ask("POST", "/classify", {"input": texts[start : start + TOGETHER], **options})
        if status != 200:
            raise SystemExit(f"{status}: {said[:300]!r}")
        found += json.loads(said)["data"]
    return found


def read_sealed(file: Path) -> tuple[list[str], list[str]]:
    """The texts and labels of a file; a row without one of them is in no run either."""
    with file.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["text"].strip() and row["label"].strip()]
    return [row["text"] for row in rows], [row["label"].strip() for row in rows]


def measure_served(folder: Path, file: Path) -> dict[str, Any]:
    """The served probabilities' calibration error, and each promise that could be made."""
    texts, labels = read_sealed(file)
    line: dict[str, Any] = {"rows": len(texts)}
    before = json.loads((folder / "evaluation.json").read_text())["calibration_error"]
    with ours(str(folder)) as server:
        answers = ask(server, texts)
        probabilities = np.array([answer["probs"] for answer in answers])
        places = {label: place for place, label in enumerate(answers[0]["probabilities"])}
        target = np.array([places[label] for label in labels])
        chosen = probabilities[np.arange(len(target)), target]
        scores = Scores(-np.log(np.maximum(chosen, 1e-12)), np.ones(len(target)), target=target, probabilities=probabilities)
        found = measure(scores, ("calibration_error", "accuracy"))
        line |= {"served": found["calibration_error"], "accuracy": found["accuracy"], "said": before}
        line["met"] = line["served"] <= max(0.03, before["before"] / 2)
        for promise in PROMISES:
            try:
                said = ask(server, texts, error_below=promise)
            except SystemExit as refused:
                line[f"below {promise}"] = str(refused)[:120]
                continue
            given = [(answer["label"], label) for answer, label in zip(said, labels, strict=True) if answer["label"] is not None]
            wrong = sum(one != other for one, other in given)
            unlikely = bool(given) and float(binom.sf(wrong - 1, len(given), promise)) < 0.05
            line[f"below {promise}"] = {
                "answered": len(given) / len(labels),
                "wrong": wrong / max(len(given), 1),
                "exceeded_beyond_chance": unlikely,
            }
    return line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/serve-confidence"))
    parser.add_argument("--sets", nargs="+", default=["subj", "trec", "banking77"])
    parser.add_argument("--rows", type=int, default=4000, help="to train and validate on")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        print(json.dumps({"set": name, **measure_served(*train(asked.data, asked.out, name, asked.rows, asked.seed))}), flush=True)
