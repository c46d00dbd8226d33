"""What it is worth that rows which begin alike go through the network once: SmolLM2-135M on Alpaca rows behind a system prompt, with and without, step by step.

    python benchmarks/shared_prompt.py --data DIR --out FILE.jsonl

The prompt is made of the words of a row that is not trained on. Pairs of steps alternate; tokens are those of the rows, shared or not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import cast

from light import find_known, note
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models.pretrained import PackedNetwork, load_tokenizer
from luthier.models.store import resolve
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.steps import steps

ROWS = 200


def measure(data: Path, words: int, adaptation: str, pairs: int, at_once: int) -> dict[str, float]:
    """Rows' tokens a second, shared and apart, and the share of tokens that go through.

    Args:
        data: with Alpaca rows.
        words: of the system prompt; 0: the base's own.
        adaptation: full or lora.
        pairs: of steps, after one that is not counted.
        at_once: tokens that go through at once; 0: the default.
    """
    rows = json.loads((data / "llamafactory_demo" / "alpaca_en_demo.json").read_text())
    prompt = " ".join(" ".join(row["output"] for row in rows[ROWS:]).split()[:words])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        with path.open("w") as file:
            for row in rows[:ROWS]:
                asked = {"role": "user", "content": f"{row['instruction']} {row['input']}".strip()}
                before = [{"role": "system", "content": prompt}] if words else []
                file.write(json.dumps({"messages": [*before, asked, {"role": "assistant", "content": row["output"]}]}) + "\n")
        dataset = load_dataset(Data(path=str(path), allow_leakage=True), checks=())
    experiment, _ = starting_experiment(dataset, None, 1)
    experiment = decide_device_fields(experiment.replace("training.micro_batch_tokens", at_once)).replace("adaptation.kind", adaptation)
    base = resolve("smollm2-135m")
    work = assemble(experiment, base, load_tokenizer(base), dataset.records)
    model = cast(PackedNetwork, work.model)
    shares, through, whole, speeds = model._shares, 0, 0, ([], [])
    walk = steps(work)
    for number in range(2 * pairs + 2):
        together = number % 2 == 0
        model._shares = shares if together else (lambda batch: False)
        if together:
            batch = work.objective.collate(work.examples_of_step(number), experiment.seed, number)
            for part in work.micro_batches(batch, work.limit(number)):
                shared_prefix = model.shared_prefix(part)
                through += int(part.lengths.sum()) if shared_prefix is None else len(shared_prefix.kept)
            whole += int(batch.lengths.sum())
        began = time.monotonic()
        step = next(walk)
        if number > 1:
            speeds[not together].append(step.tokens / (time.monotonic() - began))
    shared, apart = map(median, speeds)
    return {"through": round(through / whole, 3), "shared": round(shared, 1), "apart": round(apart, 1), "ratio": round(shared / apart, 2)}


def main() -> None:
    """Fill the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, nargs="+", default=[0, 50, 200, 600])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=0, help="tokens that go through the network at once")
    parser.add_argument("--adaptation", choices=("full", "lora"), nargs="+", default=["full", "lora"])
    asked = parser.parse_args()
    configure_torch()
    done = find_known(asked.out)
    for adaptation in asked.adaptation:
        for words in asked.words:
            if (adaptation, words) not in done:
                note(asked.out, (adaptation, words), measure(asked.data, words, adaptation, asked.pairs, asked.at_once))


if __name__ == "__main__":
    main()
