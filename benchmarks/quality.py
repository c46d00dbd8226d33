"""Does the default `luthier run` reach its scores? Three seeds a set; finished runs are kept and read again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import luthier
from luthier.app.reporters import Lines

SETS: dict[str, dict[str, str]] = {
    "sst2": {"data": "sst2"},
    "banking77": {"data": "banking77/train.csv", "test": "banking77/test.csv"},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=sorted(SETS))
    given = parser.parse_args()
    for name in given.sets:
        values = []
        for seed in range(1, given.seeds + 1):
            folder = given.out / f"{name}-{seed}"
            paths = {key: given.data / path for key, path in SETS[name].items()}
            if (folder / "experiment.yaml").exists():
                run = luthier.resume(folder, reporter=Lines())
            else:
                run = luthier.run(paths.pop("data"), seed=seed, out=folder, reporter=Lines(), **paths)  # type: ignore[arg-type]
            assert run.verdict is not None
            values.append(run.verdict["test"]["value"])
            print(
                json.dumps(
                    {
                        "set": name,
                        "seed": seed,
                        **{key: run.verdict[key] for key in ("metric", "test", "base", "trivial", "verdict", "seconds")},
                    }
                ),
                flush=True,
            )
        print(json.dumps({"set": name, "median": median(values), "seeds": values}), flush=True)
