"""Is what ships the best of the candidates? Six sets, three seeds: trained model, linear probe, their average; and calibration before and after."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import luthier
from luthier.core.randomness import permutation
from luthier.data.read_rows import read
from sets import files

SETS = {"subj": 600, "trec": 600, "polarity": 600, "banking77": 1200, "hate": 1000, "clinc": 1500}
"""Training rows (a tenth of them validate)."""
TESTED = 1200
ALONE = ("trained", "probe", "average")


def give(data: Path, out: Path, name: str, rows: int) -> tuple[Path, Path]:
    """Rows to train on and rows to test on, as files; the sets that bring a test part keep it."""
    if name not in ("banking77", "clinc"):
        return files(data, out, name, rows, TESTED)
    if name == "clinc":  # data_full.json of the clinc oos-eval repository (CC BY 3.0)
        whole = json.loads((data / "clinc" / "data_full.json").read_text())
        parts = {part: [tuple(row) for key in keys for row in whole[key]] for part, keys in (("train", ("train", "oos_train")), ("test", ("test", "oos_test")))}  # fmt: skip
    else:
        parts = {part: [(row["text"], row["category"]) for row in read(data / name / f"{part}.csv").values] for part in ("train", "test")}
    found = []
    for part, taken in (("train", rows), ("test", TESTED)):
        path = out / f"{name}-{rows}-{part}.csv"
        chosen = [parts[part][place] for place in permutation(len(parts[part]), 0, name)[:taken]]
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([("text", "label"), *chosen])
        found.append(path)
    return found[0], found[1]


def measure_run(folder: Path) -> dict[str, Any]:
    """What a finished run says of its candidates, and each one's hits on the sealed rows."""
    verdict = json.loads((folder / "verdict.json").read_text())
    rows = load_file(folder / "candidate_scores.safetensors")
    calibration = json.loads((folder / "evaluation.json").read_text())["calibration_error"]
    values = {one["name"]: one["test"]["value"] for one in verdict["candidates"]}
    lost = max(values.values()) - values[verdict["ships"]]
    gain = rows[f"test.{verdict['ships']}.right"].astype(float) - rows["test.trained.right"].astype(float)
    return {"ships": verdict["ships"], "verdict": verdict["verdict"], "metric": verdict["metric"], "values": values, "trivial": verdict["trivial"]["value"],
            "lost": lost, "gain": float(gain.mean()), "calibration": calibration, "seconds": verdict["seconds"], "rows": gain}  # fmt: skip


def interval(gains: list[np.ndarray]) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean over runs of the mean gain, rows drawn within each run."""
    chance = np.random.default_rng(0)
    draws = [np.mean([chance.choice(rows, len(rows)).mean() for rows in gains]) for _ in range(2000)]
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/what-ships"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--budget", default=None, help="for each run; none: all epochs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    whole: list[dict[str, Any]] = []
    for name in asked.sets:
        train, test = give(asked.data, asked.out, name, SETS[name])
        for seed in asked.seeds:
            folder = asked.out / f"{name}-{seed}"
            if not (folder / "verdict.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
                changes = [f"data.split_seed={seed}", "data.allow_leakage=true"]
                luthier.train(luthier.run(train, test=test, out=folder, seed=seed, set=changes, plan_only=True).folder, out=folder, budget=asked.budget, force=True)  # fmt: skip
                for large in [*(folder / "checkpoints").rglob("*.safetensors"), *(folder / "bundle").rglob("*.safetensors")]:
                    large.unlink()
            found = measure_run(folder)
            whole.append(found)
            print(json.dumps({"set": name, "seed": seed, **{key: value for key, value in found.items() if key != "rows"}}), flush=True)
    low, high = interval([run["rows"] for run in whole])
    probed = [run["rows"] for run in whole if run["values"]["probe"] > run["values"]["trained"]]
    print(json.dumps({"runs": len(whole), "mean_lost": fmean(run["lost"] for run in whole), "mean_lost_by_always": {name: fmean(max(run["values"].values()) - run["values"][name] for run in whole) for name in ALONE},
                      "gain_over_trained": fmean(run["gain"] for run in whole), "interval": [low, high],
                      "gain_where_the_probe_is_better": interval(probed) if probed else None,
                      "calibration_before": fmean(run["calibration"]["before"] for run in whole), "calibration_after": fmean(run["calibration"]["after"] for run in whole)}))  # fmt: skip
