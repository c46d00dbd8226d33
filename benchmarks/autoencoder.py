"""Are abnormal images found by a model that has learned from normal ones alone, beside PCA with as many components in the same run?

Chest X-rays (PneumoniaMNIST, the official parts), brain scans (five folds, in turn the test rows), and Fashion-MNIST with one class that was never seen. A line is kept for each run
in OUT/autoencoder.jsonl, so that the benchmark can be stopped and goes on.

    python benchmarks/autoencoder.py --data DIR            # DIR holds pneumonia_mnist/, brain_mri_tumor/data/ and fashion_mnist/ (what is not there is left out)
    python benchmarks/autoencoder.py --data DIR --quick    # one short run on 300 normal X-rays
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import luthier
from luthier.core.randomness import permutation
from luthier.data.read_rows import read
from luthier.data.similar_images import clusters
from luthier.data.sources.images import THUMBNAIL

VARIANTS = ("features", "denoising", "plain", "variational")
"""The autoencoder of what a pretrained network sees (`feature_autoencoder`), and those of pixels."""
FOLDS, ROUNDS = 5, 3
"""Of the brain scans, which are few: folds, and how often they are dealt anew."""
UNSEEN = 9
"""Of Fashion-MNIST the class that is never seen: ankle boots."""
Rows = list[tuple[str, str]]
"""File of an image below the tables' folder, and its class."""


def write_tables(folder: Path, parts: dict[str, Rows]) -> Path:
    """Write a table for each part into a folder that holds the images."""
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label"])
            writer.writerows(rows)
    return folder


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    """Write an image; its name as the tables give it."""
    place = folder / "images" / f"{name}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place)
    return f"images/{place.name}"


def pneumonia(data: Path, out: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    """The official parts; of the training images the normal ones."""
    source = data / "pneumonia_mnist" / "pneumoniamnist.npz"
    if not source.is_file():
        return
    arrays, parts = np.load(source), {}
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel()
        kept = [row for row in range(len(images)) if part != "train" or not labels[row]][: 300 if quick and part == "train" else None]
        parts[name] = [(save(out, f"{part}-{row:04}", images[row]), "pneumonia" if labels[row] else "normal") for row in kept]
    yield "pneumonia", write_tables(out, parts)


def brain(data: Path, out: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    """Five folds of the scans, of each that is there several times (nearly) the first; of those that are not tested a seventh of the normal ones, and as many others, validate."""
    source = data / "brain_mri_tumor" / "data"
    if quick or not source.is_dir():
        return
    found = read(source).values
    first = clusters([row[THUMBNAIL] for row in found])
    files: dict[str, list[Path]] = {"no": [], "yes": []}
    for number, row in sorted(enumerate(found), key=lambda each: str(each[1]["image"])):
        if first[number] == number:
            files[str(row["label"])].append(source / str(row["image"]))
    for dealt, fold in product(range(ROUNDS), range(FOLDS)):
        order = {kind: [files[kind][place] for place in permutation(len(files[kind]), dealt, "brain")] for kind in files}
        place = out / f"round-{dealt}-fold-{fold}"
        parts: dict[str, Rows] = {"train": [], "validation": [], "test": []}
        for kind, label in (("no", "normal"), ("yes", "tumour")):
            for number, file in enumerate(order[kind]):
                kept = place / "images" / f"{kind}-{file.name}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept)
                part = "test" if number % FOLDS == fold else "validation" if number // FOLDS % 7 == 0 else "train"
                if part != "train" or kind == "no":
                    parts[part].append((f"images/{kept.name}", label))
        yield f"brain round {dealt} fold {fold}", write_tables(place, parts)


def fashion(data: Path, out: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    """One class is unseen: 6,000 training images of the others, 1,000 validation images, and the official test images."""
    source = data / "fashion_mnist"
    if quick or not (source / "train-images-idx3-ubyte.gz").is_file():
        return
    parts: dict[str, Rows] = {}
    for part, name, count in (("train", "train", 7000), ("t10k", "test", 10_000)):
        images = np.frombuffer(gzip.decompress((source / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
        labels = np.frombuffer(gzip.decompress((source / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
        images = images.reshape(-1, 28, 28)
        chosen = permutation(len(images), 0, "fashion")[:count].tolist()
        rows = [(save(out, f"{part}-{row:05}", images[row]), "unseen" if labels[row] == UNSEEN else "normal") for row in chosen]
        if name == "test":
            parts["test"] = rows
        else:
            parts |= {"train": [row for row in rows[1000:] if row[1] == "normal"], "validation": rows[:1000]}
    yield "fashion", write_tables(out, parts)


def train_and_compare(rows: Path, task: str, seed: int, folder: Path, changes: list[str], target: str | None = None) -> dict[str, Any]:
    """Train, and compare with the baselines of the same run on the same test rows."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.process_time()
    verdict = luthier.run(rows, task=task, target=target, seed=seed, out=folder, force=True, set=changes).verdict
    assert verdict is not None
    strongest = {**verdict["trivial"], "difference": [verdict["difference"][end] for end in ("value", "low", "high")]}
    return {
        "rows": verdict["test"]["n"],
        "processor_seconds": round(time.process_time() - began, 1),
        "auc": [verdict["test"][end] for end in ("value", "low", "high")],
        "rivals": {
            each["name"]: {"auc": each["value"], "ours_is_better_by": each["difference"]} for each in (strongest, *verdict["others"])
        },
    }


def mean(values: Iterable[float]) -> float:
    """To four places."""
    return round(statistics.fmean(values), 4)


def interval(differences: list[list[float]], together: int) -> list[float]:
    """The mean of differences and its 95 % interval over test rows: folds have other rows, and rounds and seeds are taken to tell nothing new.

    Args:
        differences: each a value and the ends of its 95 % interval.
        together: runs whose test rows are all different ones.
    """
    middle = statistics.fmean(value for value, _, _ in differences)
    half = statistics.fmean(((high - low) / 2) ** 2 for _, low, high in differences) ** 0.5 / together**0.5
    return [round(each, 4) for each in (middle, middle - half, middle + half)]


def run_one(name: str, rows: Path, variant: str, seed: int, out: Path, quick: bool) -> dict[str, Any]:
    """One variant on one set."""
    folder = out / "runs" / f"{name}-{variant}-{seed}".replace(" ", "-")
    if variant == "features":
        task, changes = "feature_autoencoder", ["training.epochs=3"] if quick else []
    else:
        task, changes = "autoencoder", [f"objective.variant={variant}", *(["training.epochs=3", "objective.width=8"] if quick else [])]
    return {"set": name, "variant": variant, "seed": seed, "quick": quick, **train_and_compare(rows, task, seed, folder, changes)}


def main() -> None:
    """Every run that has not been made yet; then the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/autoencoder"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=VARIANTS, help="one variant alone")
    parser.add_argument("--sets", help="only sets whose name begins so")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "autoencoder.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for source in (pneumonia, brain, fashion):
        if given.sets and not source.__name__.startswith(given.sets):
            continue
        for name, rows in source(given.data, given.out / source.__name__, given.quick):
            for variant in (given.only,) if given.only else VARIANTS[:2] if given.quick else VARIANTS:
                for seed in range(1, 2 if given.quick else given.seeds + 1):
                    if any(
                        (each["set"], each["variant"], each["seed"], each["quick"]) == (name, variant, seed, given.quick) for each in done
                    ):
                        continue
                    done.append(run_one(name, rows, variant, seed, given.out, given.quick))
                    with kept.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
                    print(json.dumps(done[-1]), flush=True)
    for name in dict.fromkeys(each["set"].split(" ")[0] for each in done):
        for variant in VARIANTS:
            some = [
                each for each in done if each["set"].split(" ")[0] == name and each["variant"] == variant and each["quick"] == given.quick
            ]
            if some:
                for rival in dict.fromkeys(rival for each in some for rival in each["rivals"]):
                    compared = [each["rivals"][rival] for each in some if rival in each["rivals"]]
                    print(json.dumps({"set": name, "variant": variant, "rival": rival, "runs": len(compared), "auc": mean(each["auc"][0] for each in some),
                                      "auc_of_rival": mean(each["auc"] for each in compared),
                                      "better_by": interval([each["ours_is_better_by"] for each in compared], FOLDS if name == "brain" else 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
