"""Does `luthier check --fix` pay? A fifth of the training labels are wrong; the default run with and without the fix, on clean test rows."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

import luthier
from luthier.app.reporters import Lines
from luthier.core.randomness import mix, permutation
from luthier.delivery.bundle import open_bundle
from luthier.evaluation.compare import paired_interval
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.families.recognise import load_dataset
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve

SETS = ("banking77", "trec", "subjectivity", "sst2")


def parts_of(data: Path, name: str, count: int) -> dict[str, list[dict[str, str]]]:
    """Clean rows for training, validation and test."""
    if name == "sst2":
        found = {
            part: _table(data / "sst2" / f"{file}.tsv") for part, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
        }
        return {**found, "train": _shuffle(found["train"], name)[:count]}
    if name == "banking77":
        rows = _shuffle(_table(data / "banking77" / "train.csv", ","), name)
        return {"train": rows[:count], "validation": rows[count : count + 800], "test": _table(data / "banking77" / "test.csv", ",")}
    if name == "trec":
        rows = _shuffle(_lines(data / "sentence_sets" / "TREC.train.all"), name)
        return {"train": rows[:count], "validation": rows[count : count + 500], "test": rows[count + 500 :]}
    rows = _shuffle(_lines(data / "sentence_sets" / "subj.all"), name)
    return {"train": rows[:count], "validation": rows[count : count + 800], "test": rows[count + 800 :]}


def _table(path: Path, separator: str = "\t") -> list[dict[str, str]]:
    with path.open(newline="") as file:
        lines = list(csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL))
    return [{"text": line[0], "label": line[1]} for line in lines[lines[0] == ["text", "category"] :]]


def _lines(path: Path) -> list[dict[str, str]]:
    pairs = [line.split(" ", 1) for line in path.read_bytes().decode("latin-1").split("\n") if " " in line]
    return [{"text": text, "label": label} for label, text in pairs]


def _shuffle(rows: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [rows[row] for row in permutation(len(rows), "fix gain", name)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gain(parts: dict[str, list[dict[str, str]]], noise: float, out: Path, seed: int) -> dict[str, float]:
    """Test accuracy with and without the fix, and the difference."""
    out.mkdir(parents=True, exist_ok=True)
    train = parts["train"]
    numbers = np.arange(len(train))
    wrong = mix("wrong", numbers) % 10_000 < noise * 10_000
    names = sorted({row["label"] for row in train})
    turn = 1 + mix("other", numbers) % max(1, len(names) - 1)
    noised = [
        {**row, "label": names[(names.index(row["label"]) + int(turn[place])) % len(names)]} if wrong[place] else row
        for place, row in enumerate(train)
    ]
    files = {"noised": write(out / "noised.jsonl", noised), "fixed": out / "fixed.jsonl"}
    validation, test = (write(out / f"{part}.jsonl", parts[part]) for part in ("validation", "test"))
    if not files["fixed"].exists():
        luthier.check(files["noised"], validation=validation, test=test, fix=files["fixed"], reporter=Lines())
    journal = [json.loads(line) for line in (out / "fixed.jsonl.journal.jsonl").read_text().split("\n")[1:] if line]
    doubted = {line["line"] for line in journal if line["why"].startswith("labels")}
    print(json.dumps({"rows": len(train), "wrong": int(wrong.sum()), "dropped": len(journal), "for_their_labels": len(doubted),
                      "of_them_wrong": sum(bool(wrong[line - 1]) for line in doubted)}), flush=True)  # fmt: skip
    scores = {}
    for name, file in files.items():
        folder = out / f"run-{name}-{seed}"
        if (folder / "experiment.yaml").exists():
            luthier.resume(folder, reporter=Lines())
        else:
            luthier.run(file, validation=validation, test=test, out=folder, seed=seed, set=["data.allow_leakage=true"], reporter=Lines())
        base = resolve(str(folder / "bundle"))
        model, objective = open_bundle(base, load_tokenizer(base))
        dataset = load_dataset(luthier.Experiment.load(folder / "experiment.yaml").data)
        scores[name] = score(model, objective, objective.prepare(dataset.records["test"]))
    value, low, high = paired_interval("accuracy", scores["fixed"], scores["noised"])
    measured = {name: measure(found, ("accuracy",))["accuracy"] for name, found in scores.items()}
    return {**measured, "gain": value, "low": low, "high": high}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/fix_gain"))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.sets:
        found = gain(parts_of(given.data, name, given.rows), given.noise, given.out / name, given.seed)
        print(json.dumps({"set": name, "seed": given.seed, **found}), flush=True)
