"""Regret of the LoRA defaults on a public table of 35 models: no search at all, only the rate (and rank) that `luthier run` begins with.

python benchmarks/defaults_tinker.py --data DIR     (DIR/tinker_sweep/sft_sweep.md)
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from luthier.adaptation.lora import Lora
from luthier.families import family_of

ROW = re.compile(r"^\|([^|]+\|)+\s*$")
DIVERGED = 2.0


def table(path: Path) -> dict[str, dict[tuple[float, int], float]]:
    """Model → (rate, rank) → test loss, the mean of repeated cells."""
    found: dict[str, dict[tuple[float, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    model, head = "", []
    for line in path.read_text().split("\n"):
        if line.startswith("#"):
            model, head = line.strip("# ").strip(), []
        elif ROW.match(line):
            cells = [cell.strip(" `*") for cell in line.strip("|").split("|")]
            if not head:
                head = [cell.lower() for cell in cells]
            elif "test nll" in head and not set(cells[0]) <= set("-: "):
                row = dict(zip(head, cells, strict=False))
                rate = next((row[name] for name in ("lr", "learning rate") if name in row), None)
                rank = next((row[name] for name in ("rank", "lora rank") if name in row), None)
                try:
                    found[model][float(str(rate)), int(str(rank))].append(float(row["test nll"]))
                except (TypeError, ValueError):
                    continue
    return {name: {cell: mean(losses) for cell, losses in cells.items()} for name, cells in found.items() if cells}


def nearest(value: float, offered: list[float]) -> float:
    return min(offered, key=lambda one: abs(math.log(one / value)))


def main() -> None:
    """Print the regrets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rank", type=int, help="instead of the default")
    asked = parser.parse_args()
    cells = table(asked.data / "tinker_sweep" / "sft_sweep.md")
    rate, why = family_of("chat").learning_rate(None, "lora")
    default = asked.rank or Lora().rank
    print(f"{len(cells)} models, {sum(map(len, cells.values()))} cells; the default: rate {rate:g} ({why}), rank {default}")
    at_rank, joint = [], []
    for losses in cells.values():
        for rank in sorted({rank for _, rank in losses}):
            here = {lr: loss for (lr, each), loss in losses.items() if each == rank}
            if len(here) >= 3:
                at_rank.append(100 * (here[nearest(rate, [*here])] / min(here.values()) - 1))
        best = min(losses.values())
        taken = nearest(rate, [lr for lr, _ in losses])
        offered = sorted({rank for lr, rank in losses if lr == taken})
        rank = next((one for one in offered if one >= default), offered[-1])
        joint.append(100 * (losses[taken, rank] / best - 1))
    for name, regrets in (("rate alone, at each rank", at_rank), ("rate and rank", joint)):
        print(f"{name}: mean regret {mean(regrets):.2f} %, median {median(regrets):.2f} %, worst {max(regrets):.2f} %, n = {len(regrets)}")


if __name__ == "__main__":
    main()
