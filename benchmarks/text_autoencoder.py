"""Are unusual texts found by a model that has learned from normal ones alone, beside PCA, the nearest training text and the mean vector in the same run?

BBC news (four topics are normal, the fifth, business, is not) and SMS messages (ham is normal, spam is not); each seed has a split of its own. A line is kept for each run in
OUT/text_autoencoder.jsonl, so that the benchmark can be stopped and goes on.

    python benchmarks/text_autoencoder.py --data DIR            # DIR holds bbc_news/bbc/ and sms_spam/sms.tsv
    python benchmarks/text_autoencoder.py --data DIR --quick    # one short run on a part of the SMS messages
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from autoencoder import train_and_compare

UNSEEN = "business"
"""Of BBC news the topic that is not normal."""
READ = {"bbc": 128, "sms": 256}
"""Tokens of a text that are read."""


def sms(data: Path) -> list[tuple[str, str]]:
    """Messages; spam is unusual."""
    lines = (line.split("\t", 1) for line in (data / "sms_spam" / "sms.tsv").read_text(encoding="utf-8").splitlines())
    return [(text, "normal" if label == "ham" else "spam") for label, text in lines]


def bbc(data: Path) -> list[tuple[str, str]]:
    """Articles; one topic is unusual."""
    files = sorted((data / "bbc_news" / "bbc").glob("*/*.txt"))
    return [(file.read_text(errors="replace"), UNSEEN if file.parent.name == UNSEEN else "normal") for file in files]


def write(rows: list[tuple[str, str]], file: Path) -> Path:
    """The rows as a table."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return file


def run_one(name: str, rows: Path, seed: int, out: Path, quick: bool) -> dict[str, Any]:
    """A run on one set with a split of its own."""
    changes = [
        f"objective.max_length={READ[name]}",
        f"data.split_seed={seed}",
        *(["training.epochs=3", "data.most_rows=600"] if quick else []),
    ]
    found = train_and_compare(rows, "text_autoencoder", seed, out / "runs" / f"{name}-{seed}", changes, target="label")
    return {"set": name, "seed": seed, "quick": quick, **found}


def main() -> None:
    """Every run that has not been made yet; then the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/text_autoencoder"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "text_autoencoder.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for seed in range(1, 2 if given.quick else given.seeds + 1):
        for source in (sms,) if given.quick else (sms, bbc):
            name = source.__name__
            if any((each["set"], each["seed"], each["quick"]) == (name, seed, given.quick) for each in done):
                continue
            done.append(run_one(name, write(source(given.data), given.out / f"{name}.csv"), seed, given.out, given.quick))
            with kept.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(json.dumps(done[-1]), flush=True)
    for name in dict.fromkeys(each["set"] for each in done):
        some = [each for each in done if each["set"] == name and each["quick"] == given.quick]
        aucs: dict[str, list[float]] = {}
        for each in some:
            aucs.setdefault("the autoencoder", []).append(each["auc"][0])
            for rival, found in each["rivals"].items():
                aucs.setdefault(rival, []).append(found["auc"])
        print(
            json.dumps(
                {"set": name, "runs": len(some), "mean_auc": {model: round(statistics.fmean(values), 4) for model, values in aucs.items()}}
            )
        )


if __name__ == "__main__":
    main()
