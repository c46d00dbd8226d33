"""A table of fine-tuning runs with their curves: bases, frozen blocks, ranks and rates, and draws from the search's prior.

    python benchmarks/finetune_table.py --data DIR --out FILE.jsonl [--grids bases depths ranks rates draws]

One line a run; runs that are in the file are not repeated. What is fitted on it must leave out the sets of the search's claims (`search_cost.py`).
`tables/four-bases-600-rows.jsonl` is what it wrote: 240 runs, bf16, the grids of bases and depths whole (bases with two seeds on five sets, where Gemma's first
began with louder heads than now; MiniLM's depths 2 to 4 with three seeds on the eight sets, with two on four others), ranks and rates in part; given as
--out it is gone on with. `tables/minilm-l6-300-rows.csv` was made by an earlier form of this script: four sets, 500 rows, the draws alone, fp32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from light import draw, find_known, fit, look, note, tell, way
from luthier.core.run import Clock
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.studies.defaults import space_for, starting_experiment
from luthier.studies.propose import FROM_PRIOR
from luthier.studies.space import Values, apply_values
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.watchers import Signals
from sets import files

SETS = ("sst2", "trec", "subj", "polarity", "customers", "banking20", "agnews", "reviews")
BASES = {
    "minilm-6": ("minilm-l6", 6), "minilm-4": ("minilm-l6", 4), "minilm-3": ("minilm-l6", 3), "smollm2-6": ("smollm2-135m", 6),
    "mpnet-12": ("mpnet-base", 12), "smollm2-30": ("smollm2-135m", 30), "gemma3-18": ("gemma3-270m", 18),
}  # fmt: skip
"""A base and how many of its blocks, the lowest, are left of it."""
WHOLE = "minilm-6"
DEPTHS = (2, 3, 4, 5, 6)
RANKS = (8, 64)
RATES = (3e-5, 3e-4)
DRAWS = 10
SHARES = (1 / 4, 1 / 2, 3 / 4)
"""Of a run, where the validation rows are looked at besides its end."""
EPOCHS = 5.0


def cut(out: Path, name: str) -> Path:
    """A base with some of its blocks, the lowest, as a folder; one that keeps all of them is the base itself."""
    source, count = BASES[name]
    whole, folder = resolve(source), out / name
    base = whole.folder
    if count == whole.blocks:
        return base
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.name not in ("config.json", "model.safetensors", "store.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}))
    weights = load_file(base / "model.safetensors")

    def keep(key: str) -> bool:
        block = next((int(part) for part in key.split(".") if part.isdigit()), -1)
        return block < count

    save_file({key: value for key, value in weights.items() if keep(key)}, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapt(kind: str, rate: float | None = None, **more: Any) -> Values:
    """What an adaptation of an encoder changes of the default."""
    return {
        "adaptation.kind": kind,
        **{f"adaptation.{name}": value for name, value in more.items()},
        "optimizer.lr": rate or family_of("classification").learning_rate(None, kind)[0],
    }


GRIDS: dict[str, list[tuple[str, Values]]] = {
    "bases": [(base, {}) for base in BASES],
    "depths": [(WHOLE, adapt("freeze", depth=depth)) for depth in DEPTHS],
    "ranks": [(WHOLE, adapt("lora", rank=rank)) for rank in RANKS],
    "rates": [(WHOLE, {"optimizer.lr": rate}) for rate in RATES],
}
"""Base, and what is changed of the default."""


def draws(experiment: Any) -> list[Values]:
    """Points spread evenly over the prior of the whole space."""
    space, _ = space_for(experiment, 99)
    return draw(space, DRAWS, int(DRAWS / FROM_PRIOR) + 1)[1:]


def plan(grid: str, experiment: Any) -> Iterator[tuple[str, Values]]:
    """The runs of a grid."""
    return iter(GRIDS[grid]) if grid != "draws" else ((WHOLE, values) for values in draws(experiment))


def fill(asked: Any, seed: int, grid: str, name: str) -> None:
    """The runs of a grid on a set, those that are not there yet."""
    done = find_known(asked.out)
    with tempfile.TemporaryDirectory() as scratch:
        train, test = files(asked.data, Path(scratch), name, asked.rows, asked.tested)
        dataset = load_dataset(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
        for base, values in plan(grid, starting_experiment(dataset, None, seed)[0]):
            key = (name, asked.rows, base, json.dumps(values), seed)
            if key in done or base not in asked.only or values.get("adaptation.depth", 0) not in (0, *asked.depths):
                continue
            experiment, _ = starting_experiment(dataset, resolve(str(cut(asked.bases, base))), seed)
            experiment = experiment.replace("training.epochs", EPOCHS).replace(
                "training.batch_size", family_of("classification").batch_size(dataset, EPOCHS).value
            )
            experiment = apply_values(decide_device_fields(experiment), values)
            note(asked.out, key, {**train_one(dataset, experiment), "tested": len(dataset.records["test"])})


def train_one(dataset: Dataset, experiment: Experiment) -> dict[str, Any]:
    """A run with its curve."""
    clock, found = Clock(), {}
    with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
        shared = way(Path(scratch) / "way", dataset, experiment, signals)
        training = fit(shared, Path(scratch) / "run", experiment)
        for share in SHARES:
            training.advance(round(share * training.work.total))
            found |= look(f"validation_{share:g}", score(training.work.model, training.work.objective, training.work.validation))
        return {**found, **tell(shared, training), "seconds": round(clock(), 1)}


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bases", type=Path, default=Path("runs/bases"), help="where bases with fewer blocks are made")
    parser.add_argument("--grids", nargs="+", default=[*GRIDS, "draws"], choices=[*GRIDS, "draws"])
    parser.add_argument("--only", nargs="+", default=list(BASES), choices=list(BASES), help="these bases")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS), help="these depths")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    asked = parser.parse_args()
    configure_torch()
    for seed, grid, name in itertools.product(asked.seeds, asked.grids, asked.sets):
        fill(asked, seed, grid, name)


if __name__ == "__main__":
    main()
