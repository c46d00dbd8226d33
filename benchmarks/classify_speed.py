"""Rows a second: full fine-tuning of MiniLM on SST-2, ours and transformers' Trainer, alternating on the same rows."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

OURS = """
import sys, tempfile, time
from pathlib import Path
from luthier.families.recognise import load_dataset
from luthier.data.spec import Data
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.steps import steps
data, count, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
configure_torch()
dataset = load_dataset(Data(path=data + "/sst2"))
experiment, _ = starting_experiment(dataset, None, 1)
base = resolve("minilm-l6")
experiment = decide_device_fields(experiment.replace("training.dtype", dtype), base)
work = assemble(experiment, base, load_tokenizer(base), dataset.records)
rows = 0
for step in steps(work):
    if step.number == 2:
        began = time.monotonic()
    elif step.number > 2:
        rows += step.examples
    if step.number == count + 2:
        break
print("RESULT", rows / (time.monotonic() - began))
"""

TRAINERS = """
import sys, tempfile, time
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from luthier.core.randomness import permutation
from luthier.models.store import resolve
data, count, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
folder = resolve("minilm-l6").folder
lines = [line.rpartition("\\t")[::2] for line in open(data + "/sst2/train.tsv").read().split("\\n") if line]
tokenizer = AutoTokenizer.from_pretrained(folder)
rows = [dict(tokenizer(lines[row][0], truncation=True, max_length=256), labels=int(lines[row][1])) for row in permutation(len(lines), 1, "order", 0)]
class InOrder(Trainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 2:
            self.began = time.monotonic()
        if state.global_step == count + 2:
            print("RESULT", 32 * count / (time.monotonic() - self.began))
InOrder(
    model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32),
    args=TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=32, max_steps=count + 2, learning_rate=1e-4, report_to=[], save_strategy="no",
                           use_cpu=not torch.cuda.is_available(), bf16=dtype == "bfloat16", logging_steps=100000, disable_tqdm=True),
    train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Watch()],
).train()
"""


def figures(python: str, code: str, *words: object) -> list[float]:
    """What a script in a process of its own prints after RESULT."""
    done = subprocess.run([python, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not found:
        raise SystemExit(done.stderr[-2000:])
    return [float(word) for word in found[0]]


def time_steps(amount: str) -> str:
    """The end of a script that has `work`, `count`, `steps` and `time`: how much goes through so many steps behind the first two, a second by the clock and by processor time.

    Args:
        amount: of a step, as an expression.
    """
    return f"""
total = 0
for step in steps(work):
    if step.number == 2:
        began, spent = time.monotonic(), time.process_time()
    elif step.number > 2:
        total += {amount}
    if step.number == count + 2:
        break
print("RESULT", total / (time.monotonic() - began), total / (time.process_time() - spent))
"""


def measure(python: str, code: str, *words: object) -> float:
    """The first of them."""
    return figures(python, code, *words)[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peer-dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("runs/classify_speed.jsonl"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    for number in range(len(kept), given.rounds):
        row = {"round": number, "luthier": measure(sys.executable, OURS, given.data, given.steps, "auto")}
        for dtype in given.peer_dtype:
            row[f"trainer_{dtype}"] = measure(sys.executable, TRAINERS, given.data, given.steps, dtype)
        kept.append(row)
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    medians = {name: median(row[name] for row in kept) for name in kept[0] if name != "round"}
    peer = max(value for name, value in medians.items() if name != "luthier")
    print(json.dumps({"medians": medians, "ratio": medians["luthier"] / peer}))
