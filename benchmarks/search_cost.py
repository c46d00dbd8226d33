"""What a search costs beside a run of the default, and whether it pays: alternating, on sets that the portfolio was not chosen from.

    python benchmarks/search_cost.py --data DIR --out runs/search_cost

One run-equivalent is `luthier train` with the default values, everything on. Finished runs are kept and read again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import luthier
from luthier.app.faces import Lines
from luthier.core.randomness import permutation
from luthier.core.run import Run
from luthier.core.study import Study
from luthier.data.rows import read


def pairs(data: Path, name: str) -> list[tuple[str, str]]:
    """Text and label."""
    if name == "sst2":
        rows = read(data / "sst2" / "train.tsv", header=False).values
        return [(row["column_1"], row["column_2"]) for row in rows]
    if name == "agnews":
        rows = read(data / "ag_news_test" / "test.csv", header=False).values
        return [(f"{row['column_2']} {row['column_3']}", row["column_1"]) for row in rows]
    if name == "reviews":
        lines = [
            line
            for file in sorted((data / "uci_sentiment_sentences").glob("*.txt"))
            for line in file.read_text().split("\n")
            if "\t" in line
        ]
        return [tuple(line.rsplit("\t", 1)) for line in lines]  # type: ignore[misc]
    rows = read(data / "banking77" / "train.csv").values
    kept = sorted({row["category"] for row in rows})[:20]
    return [(row["text"], row["category"]) for row in rows if row["category"] in kept]


def files(data: Path, out: Path, name: str, rows: int, tested: int = 1500) -> tuple[Path, Path]:
    """A subset to train on, and other rows to test on."""
    every = pairs(data, name)
    chosen = [every[place] for place in permutation(len(every), 0, name)]
    found = []
    for part, taken in (("train", chosen[:rows]), ("test", chosen[rows : rows + tested])):
        path = out / f"{name}-{rows}-{part}.csv"
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([("text", "label"), *taken])
        found.append(path)
    return found[0], found[1]


def timed(out: Path, make: Callable[[], Run]) -> tuple[Run, float]:
    """A finished run, and the seconds that making it took."""
    mark = out.parent / f"{out.name}.seconds"
    if mark.exists():
        return (Study(out) if (out / "plan.yaml").exists() else Run(out)), float(mark.read_text())
    began = time.monotonic()
    made = make()
    mark.write_text(str(time.monotonic() - began))
    return made, float(mark.read_text())


def main() -> None:
    """Alternate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/search_cost"))
    parser.add_argument("--sets", nargs="+", default=["sst2", "agnews", "reviews", "banking20"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--budget", default="2x")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in range(1, asked.seeds + 1):
        for name in asked.sets:
            train, test = files(asked.data, asked.out, name, asked.rows)
            fixed = [f"data.test={test}", "data.validation_share=0.2", *asked.set]
            given: dict[str, Any] = {"set": fixed, "seed": seed, "face": Lines(), "force": True}
            tag = "-".join([name, str(asked.rows), str(seed), *(item.replace("=", "") for item in asked.set)])
            alone_at, searched_at = asked.out / f"{tag}-default", asked.out / f"{tag}-{asked.budget}"
            run, alone = timed(alone_at, partial(luthier.run, train, out=alone_at, **given))
            study, whole = timed(searched_at, partial(luthier.search, train, out=searched_at, budget=asked.budget, **given))
            assert run.verdict is not None and study.verdict is not None and isinstance(study, Study) and study.winner is not None
            told = {"set": name, "seed": seed, "default": round(run.verdict["test"]["value"], 4), "searched": round(study.verdict["test"]["value"], 4),
                    "winner": study.noted("proposed")[int(study.winner.folder.name)]["values"], "seconds": [round(alone, 1), round(whole, 1)], "run_equivalents": round(whole / alone, 2)}  # fmt: skip
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
