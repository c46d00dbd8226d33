"""Is another value better than the default's? The same rows, sets and seeds with and without each change.

    python benchmarks/variants.py --data DIR --out FILE.jsonl --change model.dropout=0 --change "optimizer.beta2=0.98 optimizer.clip=0.5" [--wrong 0 0.2] [--judge]

One line a training; runs that are in the file are not repeated. Of the labels to learn from and to choose by, the share `--wrong` is wrong; those of the test rows are right.
`--judge` trains nothing: the mean of the default, and what each change gains, with the standard error over sets and seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from light import begin, find_known, fit, note, tell, way
from luthier.training.devices import configure_torch
from luthier.training.watchers import Signals

SETS = ("sst2", "trec", "subj", "customers")
DEFAULT = ""
MEASURES = ("test_accuracy", "test_tempered")


def train(asked: Any) -> None:
    """Fill the file; what is worth most comes first."""
    changes: list[str] = [DEFAULT, *asked.change]
    every = [(seed, name, change, wrong) for seed in asked.seeds for name in asked.sets for change in changes for wrong in asked.wrong]
    for seed, name, change, wrong in every:
        key = (name, wrong, change, seed)
        if key in find_known(asked.out):
            continue
        with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
            dataset, experiment = begin(asked.data, Path(scratch), name, asked.rows, asked.tested, seed, wrong, asked.base)
            for item in [*asked.set, *change.split()]:
                path, _, value = item.partition("=")
                experiment = experiment.replace(path, json.loads(value) if value[0] in "-.0123456789[" else value)
            shared = way(Path(scratch) / "way", dataset, experiment, signals)
            note(asked.out, key, tell(shared, fit(shared, Path(scratch) / "run", experiment)))


def judge(asked: Any) -> None:
    """What each change gains."""
    runs = find_known(asked.out)
    for wrong in asked.wrong:
        for change in dict.fromkeys(key[2] for key in runs):
            both = [key for key in runs if key[1:3] == (wrong, change) and (key[0], wrong, DEFAULT, key[3]) in runs]
            if not both:
                continue
            line: dict[str, Any] = {"wrong": wrong, "change": change or "the default", "runs": len(both)}
            for measure in MEASURES:
                here = np.array([runs[key][measure] for key in both])
                line[measure] = round(float(here.mean()), 4)
                if change:
                    gain = here - np.array([runs[name, wrong, DEFAULT, seed][measure] for name, _, _, seed in both])
                    line[f"{measure}_gain"] = round(float(gain.mean()), 4)
                    if len(gain) > 1:
                        line[f"{measure}_error"] = round(float(gain.std(ddof=1) / np.sqrt(len(gain))), 4)
            print(json.dumps(line))


def main() -> None:
    """Train, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--change", action="append", default=[], help="path=value, several between spaces; again for another one")
    parser.add_argument("--base", default="", help="another base than the task's own; what it brings as its default is the default")
    parser.add_argument("--set", nargs="*", default=[], help="path=value, for all runs")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    configure_torch()
    judge(asked) if asked.judge else train(asked)


if __name__ == "__main__":
    main()
