"""What is a base worth, and what does it add that it went on learning from unlabelled texts of the same kind? One set, three starts, the same rows.

The run of masked language modelling reads the training and validation texts without their labels, never a test row.

    python benchmarks/transfer.py --data rows.csv --out OUT [--budget 30m]    # rows.csv has the columns text and label
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import luthier
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset

SHORT = ["objective.max_length=48"]


def main() -> None:
    """Parse the command line, go on with the base on unlabelled texts, and compare the starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("transfer-benchmark"))
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--rows", default="50,200,600")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default=None)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    went_on = asked.out / "masked-lm"
    if not (went_on / "bundle" / "luthier.json").exists():
        dataset = load_dataset(Data(path=str(asked.data)), checks=())
        with (asked.out / "texts.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text"])
            writer.writerows([record.values[dataset.spec.input[0]]] for part in ("train", "validation") for record in dataset.records[part])
        luthier.run(asked.out / "texts.csv", task="masked_lm", base=asked.base, set=SHORT, force=True, out=went_on)
    done = luthier.transfer(asked.data, ["scratch", asked.base, str(went_on)], rows=asked.rows, seeds=asked.seeds, budget=asked.budget,
                            set=SHORT, out=asked.out / "transfer")  # fmt: skip
    print("\n".join(done.found["sentences"]))


if __name__ == "__main__":
    main()
