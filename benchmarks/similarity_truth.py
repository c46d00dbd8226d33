"""Does one pass over the rows find the base to take and the blocks to freeze? Against trainings of every base and depth.

    python benchmarks/similarity_truth.py --data DIR --table FILE.jsonl [--among whole]

Trains nothing: it asks `similar` about each set and compares with the runs of `finetune_table.py`. Bases: MiniLM, mpnet, SmolLM2 and Gemma 3,
and the first and the third with only some of their blocks; `--among` says which of them stand for choice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from finetune_table import BASES, DEPTHS, SETS, WHOLE, adapt, cut
from light import find_known
from luthier.core.component import Component
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models.base import Base
from luthier.models.encode import layer_vectors
from luthier.pilot.similar import similar
from luthier.pilot.stages import base_similarity
from luthier.training.devices import configure_torch
from sets import files


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


@contextlib.contextmanager
def watch(read: dict[str, np.ndarray]) -> Iterator[None]:
    """Keeps what the last floor of each base makes of the rows that `similar` reads, for the time of the context."""

    def keep(base: Base, texts: Sequence[str], dtype: str) -> np.ndarray:
        found = layer_vectors(base, texts, dtype)
        read[base.name] = found[:, -1]
        return found

    with mock.patch.object(base_similarity, "layers", keep):
        yield


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


def train_all(table: Path, rows: int, seeds: Sequence[int]) -> dict[tuple[str, str, int], float]:
    """Set, base and frozen blocks → the mean test accuracy of the trainings of all seeds that the table has."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for (name, count, base, changed, seed), line in find_known(table).items():
        values = json.loads(changed)
        if count == rows and seed in seeds and values in ({}, adapt("freeze", depth=values.get("adaptation.depth", 0))):
            found.setdefault((name, base, values.get("adaptation.depth", 0)), []).append(line["test_accuracy"])
    return {key: float(np.mean(each)) for key, each in found.items()}


AMONG = {
    "whole": ("minilm-6", "mpnet-12", "smollm2-30", "gemma3-18"),
    "encoders": ("minilm-6", "minilm-4", "minilm-3", "mpnet-12"),
    "cut": ("minilm-6", "minilm-4", "minilm-3", "smollm2-6"),
    "all": tuple(BASES),
    "depths": (WHOLE,),
}
"""Which bases a person might have."""
LIKELY = (2, 3, 4)
"""Depths without which a set is not judged; the deeper ones are never the best."""


def judge(asked: Any) -> None:
    """What `similar` proposes, against what training says."""
    truth = train_all(asked.table, asked.rows, asked.seeds)
    among = AMONG[asked.among]
    told_of: list[Judged] = []
    for name in asked.sets:
        accuracy = {base: truth[name, base, 0] for base in among if (name, base, 0) in truth}
        depths = {depth: truth[name, WHOLE, depth] for depth in (0, *DEPTHS) if (name, WHOLE, depth) in truth}
        if not {0, *LIKELY} <= depths.keys() or len(accuracy) < len(among):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            train, test = files(asked.data, Path(scratch), name, asked.rows, asked.tested)
            given = {str(cut(asked.bases, base)): base for base in among}
            fixed = [f"data.test={test}", "data.validation_share=0.2", "data.allow_leakage=true"]
            read: dict[str, np.ndarray] = {}
            with watch(read):
                found = similar(train, list(given), set=fixed)
            dataset = load_dataset(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
            rows = [*dataset.records["train"], *dataset.records["validation"]]
            number = {label: place for place, label in enumerate(dataset.labels)}
            labels = np.array([number[row.values["label"]] for row in rows])
            scores = {base: logme(read[folder], labels) for folder, base in given.items()}
        best = max(accuracy.values())
        ours, largest = given[found[0].base], given[max(found, key=lambda one: one.megabytes).base]
        depth = next(one for one in found if given[one.base] == WHOLE).depth.blocks
        nearest = min(depths, key=lambda each: abs(each - depth))
        top = max(depths, key=lambda each: depths[each])
        error = (depths[top] * (1 - depths[top]) / asked.tested) ** 0.5
        told_of.append(Judged(
            name=name, base_regret=best - accuracy[ours], largest_regret=best - accuracy[largest], logme_regret=best - accuracy[max(scores, key=lambda base: scores[base])],
            depth=depth, best_depth=top, depth_behind=depths[top] - depths[nearest], depth_error=error, third_behind=depths[top] - depths[4]))  # fmt: skip
        print(json.dumps({**told_of[-1].model_dump(), "chances": {given[one.base]: round(one.chance, 2) for one in found},
                          "seconds": {given[one.base]: one.seconds for one in found}, "accuracy": accuracy, "depths": depths,
                          "floors": [[round(floor.neighbours, 3), round(floor.probe, 3), round(floor.h_score, 3)] for one in found if given[one.base] == WHOLE for floor in one.floors]}), flush=True)  # fmt: skip
    inside = [one.depth_behind <= one.depth_error for one in told_of]
    print(json.dumps({"sets": len(told_of), "regret": round(100 * float(np.mean([one.base_regret for one in told_of])), 2),
                      "largest": round(100 * float(np.mean([one.largest_regret for one in told_of])), 2),
                      "logme": round(100 * float(np.mean([one.logme_regret for one in told_of])), 2),
                      "depth_within_an_error": f"{sum(inside)} of {len(inside)}"}))  # fmt: skip


def main() -> None:
    """Judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--table",
        type=Path,
        required=True,
        help="what `finetune_table.py --grids bases depths` wrote: tables/four-bases-600-rows.jsonl",
    )
    parser.add_argument("--bases", type=Path, default=Path("runs/bases"), help="where bases with fewer blocks are made")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="the mean of their trainings is the truth")
    parser.add_argument("--among", default="whole", choices=list(AMONG), help="bases that stand for choice; depths: MiniLM's depths alone")
    asked = parser.parse_args()
    configure_torch()
    judge(asked)


if __name__ == "__main__":
    main()
