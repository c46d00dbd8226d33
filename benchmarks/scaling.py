"""What a token costs in training, against the length of rows, the rows a step, the size of the model, and the blocks that are frozen.

    python benchmarks/scaling.py --out runs/scaling

Everything alternates; each figure is the median over rounds. `scaling.html` in the folder draws them. Rounds that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from luthier.core.types import Example, Record
from luthier.delivery.figures import lines
from luthier.experiment import Experiment
from luthier.models.base import Base
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import inspect, resolve
from luthier.training.assemble import build, open_objective
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.steps import steps

TOKENS = 2048
"""A step, where its rows do not decide that."""
WIDTHS = (128, 256, 384, 512, 768)


def size(out: Path, width: int) -> Base:
    """Six blocks of random weights; speed does not ask for more."""
    folder = out / f"bert-{width}"
    if not (folder / "config.json").exists():
        config = BertConfig(vocab_size=30522, hidden_size=width, num_hidden_layers=6, num_attention_heads=width // 64 or 1, intermediate_size=4 * width)  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(resolve("minilm-l6").folder).save_pretrained(folder)
    return inspect(folder, str(folder))


def conditions(out: Path) -> Iterator[tuple[str, int, Base, int, int, int]]:
    """What is varied, its value, the base, tokens a row, rows a step, blocks frozen."""
    base = resolve("minilm-l6")
    for length in (16, 32, 64, 128, 256, 512):
        yield "tokens a row", length, base, length, TOKENS // length, 0
    for rows in (1, 2, 4, 8, 16, 32, 64):
        yield "rows a step", rows, base, 32, rows, 0
    for width in WIDTHS:
        yield "width", width, size(out, width), 64, 16, 0
    for depth in range(7):
        yield "blocks frozen", depth, base, 64, 32, depth


def cost(base: Base, length: int, rows: int, depth: int, count: int = 3) -> float:
    """Seconds a token: the median of a few steps after a first one."""
    experiment = decide_device_fields(Experiment.of({
        "data": {"path": "none", "task": "classification", "input": ["text"], "target": "label"}, "objective": {"kind": "classification", "labels": ["a", "b"]},
        "model": {"base": base.name, "dropout": 0.1}, "adaptation": {"kind": "freeze", "depth": depth} if depth else {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-4}, "schedule": {"kind": "linear"},
        "training": {"batch_size": rows, "steps": 2 * count + 2},
    }))  # fmt: skip
    draws = np.random.Generator(np.random.Philox(0))
    examples = [
        Example(
            number, {"tokens": draws.integers(1000, 30000, length).tolist()}, number % 2, Record(number + 1, {}), length, stratum=number % 2
        )
        for number in range(rows * 2)
    ]
    objective: Any = open_objective(experiment, load_tokenizer(base))
    work = build(experiment, base, objective, examples, examples[:2])
    times, before = [], time.monotonic()
    for step in steps(work):
        now = time.monotonic()
        if step.number > 2:  # two steps see every row once: what is frozen has been computed
            times.append(now - before)
        before = time.monotonic()
        if len(times) == count:
            break
    return median(times) / (length * rows)


def main() -> None:
    """Alternate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    configure_torch()
    file = asked.out / f"costs-{torch.get_num_threads()}-threads.jsonl"
    kept = [json.loads(line) for line in file.read_text().split("\n") if line] if file.exists() else []
    for turn in range(len(kept), asked.rounds):
        row = {f"{what} {value}": cost(base, length, rows, depth) for what, value, base, length, rows, depth in conditions(asked.out)}
        kept.append(row)
        with file.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
        print(f"round {turn + 1} of {asked.rounds}", flush=True)
    found: dict[str, list[tuple[float, float]]] = {}
    for name in kept[0]:
        what, _, value = name.rpartition(" ")
        found.setdefault(what, []).append((float(value), 1e6 * median(row[name] for row in kept)))
    pictures = []
    for what, points in found.items():
        pictures.append(f"<h2>{what}</h2>{lines({what: points}, what, 'µs a token', zero=True)}")
        print(f"{what:<14}" + "  ".join(f"{value:g}: {cost:.0f}" for value, cost in points), "µs a token")
    style = "svg{max-width:40rem;display:block} .grid{stroke:#ddd} text{font:12px sans-serif} polyline,path{fill:none;stroke:#264;stroke-width:2}"
    (asked.out / "scaling.html").write_text(
        f"<!doctype html><meta charset=utf-8><title>What a token costs</title><style>{style}</style>{''.join(pictures)}"
    )


if __name__ == "__main__":
    main()
