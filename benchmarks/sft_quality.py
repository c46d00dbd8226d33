"""Held-out loss after one epoch of 900 Alpaca rows: the default `luthier run` against transformers' Trainer in fp32.

The Trainer gets the same tokens, the same learned positions and the same order of rows (`sft_speed.py` writes them).
It takes a step's eight rows one by one, which is the same step (it divides by the learned tokens of all eight), without padding and in a fifth of the memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import luthier
from classify_speed import measure
from luthier.app.reporters import Lines
from luthier.models.store import resolve
from sft_speed import PREPARE

TRAINERS = """
import json, sys, tempfile
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
folder, model_folder, held_tokens = sys.argv[1:]
def labelled(row):
    return {"input_ids": row["input_ids"], "labels": [token if learned else -100 for token, learned in zip(row["input_ids"], row["completion_mask"])]}
train = [labelled(json.loads(line)) for line in open(folder + "/tokens.jsonl")]
held = [labelled(json.loads(line)) for line in open(held_tokens)]
def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    gaps = [longest - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["input_ids"] + [2] * gap for row, gap in zip(rows, gaps)]),
        "labels": torch.tensor([row["labels"] + [-100] * gap for row, gap in zip(rows, gaps)]),
        "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * gap for row, gap in zip(rows, gaps)]),
    }
class InOrder(Trainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
InOrder(
    model=model, train_dataset=train, data_collator=collate,
    args=TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=1, gradient_accumulation_steps=8, num_train_epochs=1, learning_rate=1e-4, weight_decay=0.0, lr_scheduler_type="linear",
                           warmup_steps=12, max_grad_norm=1.0, logging_steps=10, save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False),
).train()
model.eval()
total = count = 0.0
with torch.no_grad():
    for row in held:
        batch = collate([row])
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100, reduction="sum").item()
        count += (labels != -100).sum().item()
print("RESULT", total / count)
"""

HELD = """
import json, sys, tempfile
from luthier.families.recognise import load_dataset
from luthier.data.spec import Data
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.objectives.chat import Chat
base = resolve("smollm2-135m")
dataset = load_dataset(Data(path=sys.argv[1], allow_leakage=True))
with open(sys.argv[2], "w") as file:
    for example in Chat().open(load_tokenizer(base), dataset.spec.input, dataset.spec.target).prepare(dataset.records["test"]):
        file.write(json.dumps({"input_ids": example.tokens, "completion_mask": [int(learned) for learned in example.target]}) + "\\n")
print("RESULT", 1)
"""


def compare(data: Path, out: Path, seed: int) -> dict[str, object]:
    """Both held-out losses of one seed, which decides the order of rows (and our dropout)."""
    rows = out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    if not (rows / "tokens.jsonl").exists():
        measure(sys.executable, PREPARE, data, rows, seed)
    folder = out / "run"
    run = (
        luthier.resume(folder, reporter=Lines())
        if (folder / "experiment.yaml").exists()
        else luthier.run(rows, out=folder, set=["data.allow_leakage=true"], seed=seed, reporter=Lines())
    )
    assert run.verdict is not None
    kept = out / "trainer.json"
    if not kept.exists():
        measure(sys.executable, HELD, rows, out / "held.jsonl")
        kept.write_text(json.dumps(measure(sys.executable, TRAINERS, rows, resolve("smollm2-135m").folder, out / "held.jsonl")))
    theirs, ours = json.loads(kept.read_text()), run.verdict["test"]["value"]
    return {
        "seed": seed,
        "luthier": ours,
        "trainer": theirs,
        "difference_percent": 100 * (ours / theirs - 1),
        "verdict": run.verdict["verdict"],
        "base": run.verdict["base"]["value"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/sft_quality"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    for seed in given.seeds:
        print(json.dumps(compare(given.data, given.out / str(seed), seed)), flush=True)
