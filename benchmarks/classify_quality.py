"""Accuracy on SST-2's sealed rows after the same epochs: MiniLM by `luthier run` beside transformers' Trainer, both in bf16, same rows and learning rate.

    python benchmarks/classify_quality.py --data DIR [--epochs 2] [--seeds 1 2 3]

What ships is the trained model, so that training is compared with training. Finished seeds are kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import luthier
from classify_speed import figures
from luthier.app.reporters import Lines
from luthier.experiment import Experiment

TRAINERS = """
import sys, tempfile, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments
from luthier.models.store import resolve
data, epochs, seed, lr = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
folder = resolve("minilm-l6").folder
tokenizer = AutoTokenizer.from_pretrained(folder)
def rows(name):
    lines = [line.rpartition("\\t")[::2] for line in open(f"{data}/sst2/{name}.tsv").read().split("\\n") if line]
    return [dict(tokenizer(text, truncation=True, max_length=256), labels=int(label)) for text, label in lines]
torch.manual_seed(seed)
trainer = Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32),
    args=TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=32, per_device_eval_batch_size=64, num_train_epochs=epochs, learning_rate=lr, seed=seed, warmup_steps=0.1, report_to=[],
                           save_strategy="no", use_cpu=True, bf16=True, logging_steps=100000, disable_tqdm=True),
    train_dataset=rows("train"), data_collator=DataCollatorWithPadding(tokenizer),
)
trainer.train()
told = trainer.predict(rows("test"))
print("RESULT", float((told.predictions.argmax(-1) == told.label_ids).mean()))
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/classify_quality"))
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    rows = []
    for seed in given.seeds:
        folder = given.out / f"{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / "run"
        chosen = [f"training.epochs={given.epochs}", "training.ships=trained", "training.dtype=bfloat16"]
        run = (
            luthier.resume(place, reporter=Lines())
            if (place / "experiment.yaml").exists()
            else luthier.run(given.data / "sst2", seed=seed, out=place, set=chosen, reporter=Lines())
        )
        assert run.verdict is not None
        experiment: Any = Experiment.load(place / "experiment.yaml")
        kept = folder / "trainer.json"
        if not kept.exists():
            kept.write_text(json.dumps(figures(sys.executable, TRAINERS, given.data, given.epochs, seed, experiment.optimizer.lr)[0]))
        rows.append(
            {
                "seed": seed,
                "luthier": run.verdict["test"]["value"],
                "trainer": json.loads(kept.read_text()),
                "kernels": experiment.training.kernels,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({name: mean(row[name] for row in rows) for name in ("luthier", "trainer")}))
