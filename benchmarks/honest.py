"""How often is *improved* said when there is nothing to learn? Small runs on real text with shuffled labels."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from statistics import median

import luthier
from luthier.core.randomness import permutation
from luthier.training import small_run


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    return (
        float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0,
        float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("examples"), help="holds feedback/feedback.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/honest"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    small_run.FEWEST_STEPS = 8  # the small run is made, and overruled: it is not what is measured here
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.data / "feedback" / "feedback.csv").open(newline="") as file:
        whole = list(csv.DictReader(file))
    said: Counter[str] = Counter()
    warned, seconds = 0, []
    for number in range(given.count):
        folder = given.out / f"run-{number:03}"
        if not (folder / "verdict.json").exists():
            chosen = [whole[row] for row in permutation(len(whole), number, "honest rows")[: given.rows]]
            labels = permutation(given.rows, number, "honest labels")
            table = given.out / f"rows-{number:03}.jsonl"
            table.write_text(
                "".join(
                    json.dumps({"text": row["text"], "label": chosen[label]["sentiment"]}) + "\n"
                    for row, label in zip(chosen, labels, strict=True)
                )
            )
            shutil.rmtree(folder, ignore_errors=True)  # an interrupted one is made anew
            luthier.run(
                table,
                out=folder,
                seed=number,
                set=[f"training.epochs={given.epochs}", "training.evaluations_per_epoch=1", "data.test_share=0.3"],
                force=True,
            )
            for large in [*(folder / "checkpoints").rglob("*.safetensors"), *(folder / "bundle").rglob("*.safetensors")]:
                large.unlink()
        verdict = json.loads((folder / "verdict.json").read_text())
        said[verdict["verdict"]] += 1
        seconds.append(verdict["seconds"])
        warned += '"smoke.labels"' in (folder / "findings.jsonl").read_text()
        hits, done = said["improved"], number + 1
        print(
            json.dumps(
                {
                    "run": number,
                    "verdict": verdict["verdict"],
                    "improved": hits,
                    "of": done,
                    "interval": clopper_pearson(hits, done),
                    "warned": warned,
                    "median_seconds": median(seconds),
                }
            ),
            flush=True,
        )
