"""Small runs that several tests export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.run import Run
from tests.conftest import rows
from tests.families.cases import numbers, several_labels, write_lines

QUICK = ["training.steps=3", "optimizer.lr=0.003"]


def write_rows(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


def make_run(name: str, bases: Any, folder: Path) -> Run:
    """A run of two classes ("classes"), the same whose average with a linear probe ships ("average"), of several labels ("labels", "labels average") or numbers ("numbers average"), conversations ("chat"), or pairs ("vectors")."""
    if name == "chat":
        file = write_rows(folder, [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(90))])
        return luthier.run(file, base=str(bases("llama").folder), out=folder / "run", set=[*QUICK, "adaptation.kind=lora"], force=True)
    if name == "vectors":
        file = write_rows(
            folder, [{"anchor": f"{row['text']} {number}", "positive": f"{row['label']} {number}"} for number, row in enumerate(rows(90))]
        )
        return luthier.run(file, base=str(bases("bert").folder), out=folder / "run", set=QUICK, force=True)
    ships = "average" if name.endswith("average") else "trained"
    if name.startswith(("labels", "numbers")):
        file = write_lines(folder, several_labels() if name.startswith("labels") else numbers())
        changes = [*QUICK, f"training.ships={ships}", "training.dtype=float32", "training.steps=12"]
        return luthier.run(file, base=str(bases("bert").folder), out=folder / "run", set=changes, force=True)
    file = write_rows(folder, [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(120))])
    changes = [*QUICK, f"training.ships={ships}", "training.dtype=float32"]  # what is exported is compared to 1e-4, and bf16 rounds more
    return luthier.run(file, base=str(bases("bert").folder), out=folder / "run", set=changes, force=True)


@pytest.fixture(scope="session")
def runs(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name → run, made once."""
    made: dict[str, Run] = {}

    def one(name: str) -> Run:
        if name not in made:
            made[name] = make_run(name, bases, tmp_path_factory.mktemp(name))
        return made[name]

    return one
