"""Does `luthier check --fix` pay? A fifth of the training labels are wrong; the default run with and without the fix, on clean test rows."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

import luthier
from luthier.app.faces import Lines
from luthier.core.randomness import mix, permutation
from luthier.data.intake import take_in
from luthier.delivery.bundle import open_bundle
from luthier.evaluation.compare import paired
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve


def rows_of(path: Path) -> list[dict[str, str]]:
    """A tab-separated file of text and label."""
    with path.open(newline="") as file:
        return [{"text": line[0], "label": line[1]} for line in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/fix_gain"))
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--noise", type=float, default=0.2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train = rows_of(given.data / "sst2" / "train.tsv")
    train = [train[row] for row in permutation(len(train), "fix gain")[: given.rows]]
    wrong = mix("wrong", np.arange(len(train))) % 10_000 < given.noise * 10_000
    names = sorted({row["label"] for row in train})
    noised = [{**row, "label": names[1 - names.index(row["label"])]} if bad else row for row, bad in zip(train, wrong, strict=True)]
    files = {"noised": write(given.out / "noised.jsonl", noised), "fixed": given.out / "fixed.jsonl"}
    validation, test = (write(given.out / f"{part}.jsonl", rows_of(given.data / "sst2" / f"{part}.tsv")) for part in ("dev", "test"))
    if not files["fixed"].exists():
        luthier.check(files["noised"], validation=validation, test=test, fix=files["fixed"], face=Lines())
    dropped = {line["line"] for line in map(json.loads, (given.out / "fixed.jsonl.journal.jsonl").read_text().splitlines()[1:])}
    caught = sum(bool(wrong[line - 1]) for line in dropped)
    print(json.dumps({"rows": len(train), "wrong": int(wrong.sum()), "dropped": len(dropped), "of_them_wrong": caught}), flush=True)
    scores = {}
    for name, file in files.items():
        folder = given.out / f"run-{name}"
        if (folder / "experiment.yaml").exists():
            luthier.resume(folder, face=Lines())
        else:
            luthier.run(file, validation=validation, test=test, out=folder, set=["data.allow_leakage=true"], face=Lines())
        base = resolve(str(folder / "bundle"))
        model, objective = open_bundle(base, load_tokenizer(base))
        intake = take_in(luthier.Experiment.load(folder / "experiment.yaml").data)
        scores[name] = score(model, objective, objective.prepare(intake.records["test"]))
        print(json.dumps({"training_rows": name, "test_accuracy": measure(scores[name], ("accuracy",))["accuracy"]}), flush=True)
    value, low, high = paired("accuracy", scores["fixed"], scores["noised"])
    print(json.dumps({"gain": value, "low": low, "high": high}))
