"""Killed in the middle of an epoch and resumed: are the weights those of a run that nobody disturbed? transformers' Trainer and Luthier side by side.

MiniLM on the feedback example, batches of 16, dropout 0.1, 30 steps, a checkpoint every 10, `kill -9` in step 17. Trainer runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from luthier.models.store import resolve

TRAINER = """
import hashlib, json, os, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
data, base, out, what, options = sys.argv[1:]
rows = json.load(open(data))
tokenizer = AutoTokenizer.from_pretrained(base)
kinds = sorted({label for _, label in rows})
class Rows(torch.utils.data.Dataset):
    def __len__(self): return len(rows)
    def __getitem__(self, number):
        return {**tokenizer(rows[number][0], truncation=True, max_length=64), "labels": kinds.index(rows[number][1])}
class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **more):
        if what == "killed" and state.global_step == 16:
            os.kill(os.getpid(), 9)
arguments = TrainingArguments(out, per_device_train_batch_size=16, max_steps=30, save_steps=10, logging_steps=1, learning_rate=1e-4, report_to=[], use_cpu=True, seed=1, disable_tqdm=True, **json.loads(options))
from transformers import set_seed
set_seed(1)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(kinds), hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
trainer = Trainer(model, arguments, train_dataset=Rows(), data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Kill()])
trainer.train(resume_from_checkpoint=what == "resumed")
weights = hashlib.sha256()
for name, tensor in sorted(trainer.model.state_dict().items()):
    weights.update(tensor.numpy().tobytes())
torch.save({name: tensor for name, tensor in trainer.model.state_dict().items()}, out + "/final.pt")
print("RESULT", json.dumps({"weights": weights.hexdigest(), "losses": {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}}))
"""

OURS = """
import os, sys, luthier
from luthier.training.watchers import Checkpointer
def every_tenth(self, step):
    if step.number % 10 == 0 and step.number < step.total:
        self.save(step.number)
Checkpointer.__call__ = every_tenth
def kill(step):
    if sys.argv[3] == "killed" and step.number == 16:
        os.kill(os.getpid(), 9)
if sys.argv[3] == "resumed":
    luthier.resume(sys.argv[2])
else:
    luthier.train(sys.argv[1], out=sys.argv[2], watchers=[kill], force=True)
"""
WAYS = {
    "as it comes": {},
    "two loader workers": {"dataloader_num_workers": 2},
    "rows of similar length together": {"train_sampling_strategy": "group_by_length"},
}


def trainer(python: str, place: Path, options: dict[str, object]) -> dict[str, object]:
    """Straight, and killed and resumed."""
    found = {}
    for what, out in (("straight", "straight"), ("killed", "disturbed"), ("resumed", "disturbed")):
        asked = [
            python,
            "-c",
            TRAINER,
            str(place / "rows.json"),
            str(resolve("minilm-l6").folder),
            str(place / out),
            what,
            json.dumps(options),
        ]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if what == "killed":
            assert done.returncode == -9, done.stderr[-2000:]
        else:
            if "RESULT " not in done.stdout:
                raise SystemExit(done.stderr[-3000:])
            found[what] = json.loads(done.stdout.split("RESULT ", 1)[1])
    losses = [found[what]["losses"] for what in ("straight", "resumed")]
    first = next((step for step in sorted(losses[0], key=int) if losses[0][step] != losses[1].get(step)), None)
    return {"same_bytes": found["straight"]["weights"] == found["resumed"]["weights"], "first_step_with_another_loss": first}


def ours(place: Path, data: Path) -> dict[str, object]:
    """The same with Luthier."""
    import luthier

    set = ["training.steps=30", "training.batch_size=16", "model.dropout=0.1", "optimizer.lr=1e-4", "training.evaluations_per_epoch=1"]
    plan = luthier.run(data, out=place / "plan", set=set, plan_only=True)
    for what, out in (("straight", "one"), ("killed", "two"), ("resumed", "two")):
        done = subprocess.run(
            [sys.executable, "-c", OURS, str(plan.folder / "experiment.yaml"), str(place / out), what],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-9 if what == "killed" else 0), done.stderr[-2000:]
    hashes = [hashlib.sha256((place / out / "bundle" / "model.safetensors").read_bytes()).hexdigest() for out in ("one", "two")]
    lines = [(place / out / "metrics.jsonl").read_bytes() for out in ("one", "two")]
    return {"same_bytes": hashes[0] == hashes[1], "same_metrics": lines[0] == lines[1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rows", type=Path, default=Path("examples/feedback/feedback.csv"))
    given = parser.parse_args()
    with given.rows.open(newline="") as file:
        table = list(csv.DictReader(file))[:400]
    for way, options in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rows.json").write_text(json.dumps([[row["text"], row["sentiment"]] for row in table]))
            print(json.dumps({"who": "Trainer", "way": way, **trainer(given.peer_python, Path(folder), options)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps({"text": row["text"], "label": row["sentiment"]}) + "\n" for row in table))
        print(json.dumps({"who": "Luthier", **ours(Path(folder), data)}), flush=True)
