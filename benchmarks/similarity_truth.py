"""Does one pass over the rows find the base to take and the blocks to freeze? Against trainings of every base and depth.

    python benchmarks/similarity_truth.py --data DIR --out FILE.jsonl [--judge]

One line a training; what is in the file is not repeated. Bases: MiniLM with six, four and three of its blocks, SmolLM2 with six of its thirty.
`--judge` trains nothing: it asks `similar` about each set and compares.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from light import fit, known, note, told, way
from luthier.core.component import Component
from luthier.core.run import Clock
from luthier.data.intake import take_in
from luthier.data.spec import Data
from luthier.models.encode import layers
from luthier.models.store import resolve
from luthier.pilot.similar import similar
from luthier.studies.defaults import RATES, choose
from luthier.studies.space import applied
from luthier.training.devices import decided, settle
from luthier.training.watchers import Signals
from sets import files

SETS = ("sst2", "trec", "subj", "polarity", "customers", "banking20", "agnews", "reviews")
BASES = {"minilm-6": ("minilm-l6", 6), "minilm-4": ("minilm-l6", 4), "minilm-3": ("minilm-l6", 3), "smollm2-6": ("smollm2-135m", 6)}
DEPTHS = (2, 3, 4, 5, 6)
"""Of MiniLM; beside nothing frozen."""
EPOCHS = 5.0


def cut(out: Path, name: str) -> Path:
    """A base with some of its blocks, the lowest, as a folder."""
    source, count = BASES[name]
    base, folder = resolve(source).folder, out / name
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.name not in ("config.json", "model.safetensors", "store.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}))
    weights = load_file(base / "model.safetensors")

    def kept(key: str) -> bool:
        block = next((int(part) for part in key.split(".") if part.isdigit()), -1)
        return block < count

    save_file({key: value for key, value in weights.items() if kept(key)}, folder / "model.safetensors", {"format": "pt"})
    return folder


def logme(rows: np.ndarray, labels: np.ndarray) -> float:
    """The evidence of a linear model on the classes, mean over classes (You et al. 2021, algorithm 1)."""
    left, size, _ = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    squared, count, width = size**2, len(rows), rows.shape[1]
    found = []
    for label in range(labels.max() + 1):
        target = (labels == label).astype(np.float64)
        turned = left.T @ target
        rest = float((target**2).sum() - (turned**2).sum())
        alpha, beta, norm, residual = 1.0, 1.0, 0.0, 0.0
        for _ in range(100):
            gamma = float((beta * squared / (alpha + beta * squared)).sum())
            mean = beta * size * turned / (alpha + beta * squared)
            norm = float((mean**2).sum())
            residual = float(((turned - size * mean) ** 2).sum()) + rest
            alpha, beta = gamma / max(norm, 1e-12), (count - gamma) / max(residual, 1e-12)
        evidence = width / 2 * np.log(alpha) + count / 2 * np.log(beta) - count / 2 * np.log(2 * np.pi)
        evidence -= (
            beta / 2 * residual
            + alpha / 2 * norm
            + 0.5 * float(np.log(alpha + beta * squared).sum())
            + 0.5 * (width - len(squared)) * np.log(alpha)
        )
        found.append(evidence / count)
    return float(np.mean(found))


def trained(asked: Any) -> None:
    """Every base with nothing frozen, and MiniLM at every depth."""
    done = {*known(asked.out)}
    plan = [("minilm-6", depth) for depth in (0, *DEPTHS)] + ([] if asked.depths else [(base, 0) for base in BASES])
    for name in asked.sets:
        for base, depth in plan:
            key = (name, base, depth, asked.seed)
            if key in done:
                continue
            done.add(key)
            with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
                train, test = files(asked.data, Path(scratch), name, asked.rows, asked.tested)
                intake = take_in(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
                experiment, _ = choose(intake, str(cut(asked.bases, base)), "decoder" if base.startswith("smol") else "encoder", asked.seed)
                experiment = decided(experiment.replace("training.dtype", "float32").replace("training.epochs", EPOCHS))
                if depth:
                    rate = RATES["encoder", "freeze"][0]
                    experiment = applied(experiment, {"adaptation.kind": "freeze", "adaptation.depth": depth, "optimizer.lr": rate})
                clock = Clock()
                shared = way(Path(scratch) / "way", intake, experiment, signals)
                found = told(shared, fit(shared, Path(scratch) / "run", experiment))
                note(asked.out, key, {**found, "seconds": round(clock(), 1), "tested": len(intake.records["test"])})


class Judged(Component):
    """A set, and what one pass says of it."""

    name: str
    base_regret: float
    largest_regret: float
    logme_regret: float
    depth: int
    best_depth: int
    depth_behind: float
    depth_error: float
    third_behind: float


def judged(asked: Any) -> None:
    """What `similar` proposes, against what training says."""
    truth = known(asked.out)
    told_of: list[Judged] = []
    for name in asked.sets:
        accuracy = {base: truth[name, base, 0, asked.seed]["test_accuracy"] for base in BASES if (name, base, 0, asked.seed) in truth}
        depths = {
            depth: truth[name, "minilm-6", depth, asked.seed]["test_accuracy"]
            for depth in (0, *DEPTHS)
            if (name, "minilm-6", depth, asked.seed) in truth
        }
        if len(depths) < len(DEPTHS) + 1 or (len(accuracy) < len(BASES) and not asked.depths):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            train, test = files(asked.data, Path(scratch), name, asked.rows, asked.tested)
            given = {str(cut(asked.bases, base)): base for base in (["minilm-6"] if asked.depths else BASES)}
            fixed = [f"data.test={test}", "data.validation_share=0.2", "data.allow_leakage=true"]
            found = similar(train, list(given), set=fixed)
            intake = take_in(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
            rows = [*intake.records["train"], *intake.records["validation"]]
            number = {label: place for place, label in enumerate(intake.labels)}
            labels = np.array([number[row.values["label"]] for row in rows])
            scores = {
                base: logme(layers(resolve(folder), [row.values["text"] for row in rows])[:, -1], labels) for folder, base in given.items()
            }
        best = max(accuracy.values())
        ours, largest = given[found[0].base], "minilm-6" if asked.depths else "smollm2-6"
        depth = next(one for one in found if given[one.base] == "minilm-6").depth.blocks
        nearest = min(depths, key=lambda each: abs(each - depth))
        top = max(depths, key=lambda each: depths[each])
        error = (depths[top] * (1 - depths[top]) / truth[name, "minilm-6", 0, asked.seed]["tested"]) ** 0.5
        told_of.append(Judged(
            name=name, base_regret=best - accuracy[ours], largest_regret=best - accuracy[largest], logme_regret=best - accuracy[max(scores, key=lambda base: scores[base])],
            depth=depth, best_depth=top, depth_behind=depths[top] - depths[nearest], depth_error=error, third_behind=depths[top] - depths[4]))  # fmt: skip
        print(json.dumps({**told_of[-1].model_dump(), "chances": {given[one.base]: round(one.chance, 2) for one in found},
                          "seconds": {given[one.base]: one.seconds for one in found}, "accuracy": accuracy, "depths": depths,
                          "floors": [[round(floor.neighbours, 3), round(floor.probe, 3), round(floor.h_score, 3)] for one in found if given[one.base] == "minilm-6" for floor in one.floors]}), flush=True)  # fmt: skip
    inside = [one.depth_behind <= one.depth_error for one in told_of]
    print(json.dumps({"sets": len(told_of), "regret": round(100 * float(np.mean([one.base_regret for one in told_of])), 2),
                      "largest": round(100 * float(np.mean([one.largest_regret for one in told_of])), 2),
                      "logme": round(100 * float(np.mean([one.logme_regret for one in told_of])), 2),
                      "depth_within_an_error": f"{sum(inside)} of {len(inside)}"}))  # fmt: skip


def main() -> None:
    """Train, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bases", type=Path, default=Path("runs/bases"), help="where bases with fewer blocks are made")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--depths", action="store_true", help="MiniLM's depths alone")
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    settle()
    judged(asked) if asked.judge else trained(asked)


if __name__ == "__main__":
    main()
