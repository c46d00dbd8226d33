"""A small table of fine-tuning runs, with their curves: what the search's first candidates are chosen from.

    python benchmarks/finetune_table.py --data DIR --out FILE.csv

Rows are appended as they come; runs that are in the file are not repeated. Sets that a claim is made on are left out of it.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from light import drawn, fit, way
from luthier.core.randomness import permutation
from luthier.data.intake import take_in
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.evaluation.tempered import tempered
from luthier.studies.defaults import choose, space_for
from luthier.studies.propose import FROM_PRIOR
from luthier.studies.space import applied
from luthier.training.devices import decided, settle
from luthier.training.watchers import Signals

SETS = {"polarity": "rt-polarity.all", "subjectivity": "subj.all", "questions": "TREC.train.all", "customers": "custrev.all"}
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
COLUMNS = ("set", "rows", "seed", "config", "optimizer.lr", "training.batch_size", "model.dropout", "optimizer.weight_decay", "schedule.warmup",
           "schedule.kind", *(f"loss_{share:g}" for share in SHARES), *(f"accuracy_{share:g}" for share in SHARES),
           *(f"tempered_{share:g}" for share in SHARES), "test_loss", "test_accuracy")  # fmt: skip


def rows_of(path: Path, count: int, tested: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training (with validation) and test rows, drawn evenly by chance."""
    pairs = [line.split(" ", 1) for line in path.read_bytes().decode("latin-1").split("\n") if " " in line]
    chosen = [(text.strip(), label) for label, text in (pairs[place] for place in permutation(len(pairs), 0, path.name))]
    return chosen[:count], chosen[count : count + tested]


def written(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])
    return path


def configs(experiment: Any, count: int) -> list[dict[str, Any]]:
    """The default, and points spread evenly over the prior of the whole space."""
    space, _ = space_for(experiment, 99)
    return drawn(space, count, int(count / FROM_PRIOR) + 1)


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--configs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    settle()
    known = set()
    if asked.out.exists():
        with asked.out.open() as handle:
            known = {(row["set"], int(row["rows"]), int(row["seed"]), int(row["config"])) for row in csv.DictReader(handle)}
    else:
        asked.out.write_text(",".join(COLUMNS) + "\n")
    for seed in range(1, asked.seeds + 1):
        for number in range(asked.configs):
            for name, file in SETS.items():
                if (name, asked.rows, seed, number) in known:
                    continue
                with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
                    train, test = rows_of(asked.data / "sentence_sets" / file, asked.rows, 600)
                    spec = Data(path=str(written(Path(scratch) / "train.csv", train)), test=str(written(Path(scratch) / "test.csv", test)),
                                validation_share=0.4, allow_leakage=True)  # fmt: skip
                    intake = take_in(spec, checks=())
                    experiment, _ = choose(intake, None, None, seed)
                    values = configs(experiment, asked.configs)[number]
                    experiment = decided(applied(experiment, values).replace("training.dtype", "float32").replace("training.epochs", 6.0))
                    experiment = experiment.replace("training.evaluations_per_epoch", 1 / 6)  # the looks at the rungs are our own
                    shared = way(Path(scratch) / "way", intake, experiment, signals)
                    training = fit(shared, Path(scratch) / "run", experiment)
                    row: dict[str, Any] = {"set": name, "rows": asked.rows, "seed": seed, "config": number, **values}
                    for share in SHARES:
                        training.advance(round(share * training.work.total))
                        scores = score(training.work.model, training.work.objective, training.work.validation)
                        seen = {**measure(scores, ("accuracy", "loss")), "tempered": float(tempered(scores).mean())}
                        row |= {f"{what}_{share:g}": round(value, 4) for what, value in seen.items()}
                    seen = measure(score(training.work.model, training.work.objective, shared.examples("test")), ("accuracy", "loss"))
                    row |= {"test_loss": round(seen["loss"], 4), "test_accuracy": round(seen["accuracy"], 4)}
                with asked.out.open("a", newline="") as handle:
                    csv.DictWriter(handle, COLUMNS).writerow(row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
