"""Are the image bases right, and what are they worth beside frozen features with logistic regression and beside a network from scratch?

`check` runs the networks beside the implementation that their weights were published for (PyPI: efficientnet-lite-pytorch) and, given a folder of pictures
named like ImageNet's classes (github.com/EliSchwartz/imagenet-sample-images), counts right answers under both normalisations that are written about.
`train` takes chest X-rays (PneumoniaMNIST as .npz) and brain scans through `luthier run` from each start. A line is kept for each in OUT/images.jsonl.
`folds` takes the brain scans so five times, each time with another fifth as test rows (copies of a scan in one fifth), and compares the starts over all of them.

    python benchmarks/images.py check --pictures DIR
    python benchmarks/images.py folds --data DIR --out OUT
    python benchmarks/images.py train --data DIR --out OUT     # DIR holds pneumonia_mnist/pneumoniamnist.npz and brain_mri_tumor/data
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier
from luthier.core.run import Run
from luthier.data.spec import Data
from luthier.data.split import folds
from luthier.families.recognise import load_dataset
from luthier.models import efficientnet_lite
from luthier.models.store import resolve

NORMALISATIONS = {
    "(x - 127) / 128": (efficientnet_lite.MEAN, efficientnet_lite.DEVIATION),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
SETS = {
    "pneumonia": (
        "pneumonia_mnist/pneumoniamnist.npz",
        {"scratch": ["training.epochs=4"], "efficientnet-lite0": ["objective.side=56", "training.epochs=2"]},
    ),
    "brain": ("brain_mri_tumor/data", {"scratch": [], "efficientnet-lite0": ["objective.side=128", "training.epochs=8"]}),
}
"""Data, and for each start what keeps its run short on two cores."""
FOLDS = 5


def check(pictures: Path | None) -> None:
    """Print how far each network is from the published implementation, and how often it is right."""
    for name in efficientnet_lite.VARIANTS:
        folder = resolve(name, print).folder
        network: Any = efficientnet_lite.EfficientNetLite.from_pretrained(folder).eval()
        side = network.config.image_size
        compare_published(name, network, side)
        if pictures is None:
            continue
        files = sorted(pictures.glob("n*.JPEG"))
        for said, (mean, deviation) in NORMALISATIONS.items():
            shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, deviation))
            right = 0
            for start in range(0, len(files), 20):
                shown = torch.from_numpy(np.stack([crop(file, side) for file in files[start : start + 20]])).permute(0, 3, 1, 2) / 255
                with torch.no_grad():
                    found = network((shown - shift) / scale).logits.argmax(1)
                right += int((found == torch.arange(start, start + len(found))).sum())
            print(f"{name}, {said}: {right} of {len(files)} right")


def compare_published(name: str, network: Any, side: int) -> None:
    """Print how far the logits are from those of the published implementation, where that is installed."""
    try:
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("the published implementation is not installed: pip install --no-deps efficientnet-lite-pytorch")
        return
    published = EfficientNet.from_name(name).eval()
    ours = {next(iter(efficientnet_lite.rename({theirs: torch.empty(0)}, network.config))): theirs for theirs in published.state_dict()}
    published.load_state_dict({ours[key]: tensor for key, tensor in network.state_dict().items()})
    shown = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = (network(shown).logits - published(shown)).abs().max()
    print(f"{name}: logits at most {float(apart):.2g} apart from the published implementation")


def crop(file: Path, side: int) -> np.ndarray:
    """The middle of a picture as the networks' authors evaluate them, # (side, side, 3)"""
    from PIL import Image

    image = Image.open(file).convert("RGB")
    edge = int(side / (side + 32) * min(image.size))
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return np.asarray(image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BICUBIC))


def train(data: Path, out: Path) -> None:
    """Take each data set from each start to a verdict, and keep a line of each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (path, starts) in SETS.items():
        for base, changes in starts.items():
            folder = out / f"{name}-{base}"
            if not (data / path).exists() or (folder / "verdict.json").exists():
                continue
            verdict = luthier.run(data / path, base=base, metric="auc", set=changes, force=True, out=folder).verdict
            assert verdict is not None
            line = {
                "data": name,
                "start": base,
                "set": changes,
                **{part: verdict[part] for part in ("test", "base", "trivial", "seconds")},
                "ships": verdict.get("ships"),
            }
            with (out / "images.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line))


def train_folds(data: Path, out: Path) -> None:
    """The brain scans five times, each scan a test row once, from each start; the AUC of each fifth, and the differences with their standard error."""
    out.mkdir(parents=True, exist_ok=True)
    path, starts = SETS["brain"]
    dataset = load_dataset(Data(path=str(data / path), task="image_classification"), checks=())
    rows = [record for part in dataset.records.values() for record in part]
    together = [dataset.together[record.source, record.row] for record in rows]
    image, label = dataset.spec.input[0], str(dataset.spec.target)
    parts = folds(together, [str(record.values[label]) for record in rows], FOLDS, 0)
    shutil.copytree(data / path, out / "scans", dirs_exist_ok=True)  # a table names images from its own folder on
    found: dict[str, list[float]] = {"scratch": [], "efficientnet-lite0": [], "efficientnet-lite0 frozen": []}
    for number, part in enumerate(parts):
        files = {"train": out / f"fold{number}-train.csv", "test": out / f"fold{number}-test.csv"}
        for name, file in files.items():
            with file.open("w", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(("image", "label"))
                writer.writerows(
                    (f"scans/{row.values[image]}", row.values[label])
                    for place, row in enumerate(rows)
                    if (place in part) == (name == "test")
                )
        for base, changes in starts.items():
            folder = out / f"fold{number}-{base}"
            run = Run(folder)
            if not (folder / "verdict.json").exists():
                run = luthier.run(files["train"], test=files["test"], base=base, metric="auc", set=changes, force=True, out=folder)
            assert run.verdict is not None
            found[base].append(run.verdict["test"]["value"])
            if run.verdict.get("base"):
                found[f"{base} frozen"].append(run.verdict["base"]["value"])
            print(
                json.dumps({"fold": number, "start": base, "auc": run.verdict["test"]["value"], "ships": run.verdict.get("ships")}),
                flush=True,
            )
    ours = np.array(found["efficientnet-lite0"])
    for name, values in found.items():
        apart = ours - np.array(values)
        print(json.dumps({"start": name, "mean AUC": float(np.mean(values)), "efficientnet-lite0 is better by": float(apart.mean()), "standard error": float(apart.std(ddof=1) / len(apart) ** 0.5)}))  # fmt: skip


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("check", "train", "folds"))
    parser.add_argument("--pictures", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("images-benchmark"))
    asked = parser.parse_args()
    if asked.part == "check":
        check(asked.pictures)
    elif asked.part == "folds":
        train_folds(asked.data, asked.out)
    else:
        train(asked.data, asked.out)


if __name__ == "__main__":
    main()
