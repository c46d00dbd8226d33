"""What a search costs beside a run of the default, and whether it pays; and beside Optuna with transformers' Trainer on the same rows.

    python benchmarks/search_cost.py --data DIR --out runs/search_cost [--peer PYTHON]

One run-equivalent is `luthier train` with the default values, everything on and nothing frozen; where the default freezes, its own cost
stands beside it (frozen_run_equivalents). Finished runs are kept and read again.
PYTHON has torch, transformers, accelerate and optuna. The peer searches as a careful user would: TPE and MedianPruner over 16 trials,
accuracy on the same validation rows after each epoch, then a run with the best values that keeps its best epoch.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import luthier
from luthier.app.reporters import Lines
from luthier.core.run import Run
from luthier.core.study import Study
from luthier.data.spec import Data
from luthier.experiment import Experiment
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.studies.space import value_at
from sets import files

IMPORTS = ("luthier.pilot.complete", "sklearn.linear_model", "sklearn.feature_extraction.text")
"""The peer's seconds begin behind its imports, so ours do too."""
PEER_SEED = 0
PEER = """
import csv, json, sys, tempfile, time
import numpy, optuna, torch, transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
folder, out, trials, seed, epochs, batches = sys.argv[1], sys.argv[2], *(json.loads(word) for word in sys.argv[3:])
transformers.logging.set_verbosity_error()
tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
blocks = config.num_hidden_layers
read = {part: list(csv.reader(open(f"{out}/{part}.csv", newline=""))) for part in ("train", "validation", "test")}
labels = sorted({label for _, label in read["train"]})
sets = {part: [dict(tokenizer(text, truncation=True, max_length=256), labels=labels.index(label)) for text, label in rows] for part, rows in read.items()}
spent = {"train": 0, "evaluate": 0, "trained_weight": 0.0}

def trainer(values, seed, more, callbacks=()):
    dropout = {name: values["dropout"] for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout") if hasattr(config, name)}
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(labels), dtype=torch.float32, pad_token_id=tokenizer.pad_token_id, **dropout)
    if values["freeze"]:
        body = model.base_model
        for part in (body.get_input_embeddings(), *(body.encoder.layer if hasattr(body, "encoder") else body.layers)[: values["freeze"]]):
            part.requires_grad_(False)
    steps = -(-len(sets["train"]) // values["batch"]) * values["epochs"]
    args = TrainingArguments(
        tempfile.mkdtemp(), learning_rate=values["lr"], weight_decay=values["decay"], warmup_steps=int(values["warmup"] * steps),
        per_device_train_batch_size=values["batch"], per_device_eval_batch_size=64, num_train_epochs=values["epochs"], eval_strategy="epoch",
        seed=seed, report_to=[], use_cpu=True, logging_steps=100000, disable_tqdm=True, **more)
    return Trainer(
        model=model, args=args, train_dataset=sets["train"], eval_dataset=sets["validation"], data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"accuracy": float((numpy.argmax(found.predictions, 1) == found.label_ids).mean())}, callbacks=list(callbacks))

class Report(TrainerCallback):
    def __init__(self, trial):
        self.trial = trial
    def on_evaluate(self, args, state, control, metrics, **more):
        spent["train"] += len(sets["train"])
        spent["trained_weight"] += len(sets["train"]) * (1 - self.trial.params["freeze"] / blocks * 2 / 3)
        spent["evaluate"] += len(sets["validation"])
        self.last = metrics["eval_accuracy"]
        self.trial.report(self.last, round(state.epoch))
        if self.trial.should_prune():
            raise optuna.TrialPruned

def objective(trial):
    values = {
        "lr": trial.suggest_float("lr", 1e-5, 1e-3, log=True), "decay": trial.suggest_float("decay", 0.0, 0.1),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3), "warmup": trial.suggest_float("warmup", 0.0, 0.2),
        "freeze": trial.suggest_categorical("freeze", [0, blocks // 2, blocks]), "batch": trial.suggest_categorical("batch", batches),
        "epochs": trial.suggest_int("epochs", *epochs)}
    report = Report(trial)
    trainer(values, seed, {"save_strategy": "no"}, [report]).train()
    return report.last

began = time.monotonic()
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner())
study.optimize(objective, trials)
searched = time.monotonic() - began
best = trainer(study.best_params, seed, {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_total_limit": 1})
best.train()
whole = time.monotonic() - began
print("RESULT", json.dumps({
    "test": best.predict(sets["test"]).metrics["test_accuracy"], "validation": study.best_value, "repeated": best.evaluate()["eval_accuracy"],
    "values": study.best_params, "pruned": sum(trial.state.name == "PRUNED" for trial in study.trials),
    "seconds": [round(searched, 1), round(whole, 1)], "threads": torch.get_num_threads(), "rows": spent}))
"""


def peer(out: Path, train: Path, test: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What Optuna and Trainer find on the rows that our runs train, select and are tested on."""
    kept = out.parent / f"{out.name}.json"
    if not kept.exists():
        out.mkdir(exist_ok=True)
        dataset = load_dataset(Data.model_validate({"path": str(train), "test": str(test), "validation_share": 0.2}))
        for part, records in dataset.records.items():
            with (out / f"{part}.csv").open("w", newline="") as handle:
                csv.writer(handle).writerows([record.values["text"], record.values["label"]] for record in records)
        given = (asked.trials, PEER_SEED, asked.epochs, asked.batches)
        words = [asked.peer, "-c", PEER, str(resolve(asked.base).folder), str(out), *map(json.dumps, given)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found = [line.removeprefix("RESULT ") for line in done.stdout.split("\n") if line.startswith("RESULT ")]
        if not found:
            raise SystemExit(done.stderr[-3000:])
        kept.write_text(found[0])
    return json.loads(kept.read_text())


def time_run(out: Path, make: Callable[[], Run]) -> tuple[Run, float]:
    """A finished run, and the seconds that making it took."""
    mark = out.parent / f"{out.name}.seconds"
    if mark.exists():
        return (Study(out) if (out / "plan.yaml").exists() else Run(out)), float(mark.read_text())
    shutil.rmtree(out, ignore_errors=True)  # one that was stopped in the middle would tell no time
    began = time.monotonic()
    made = make()
    mark.write_text(str(time.monotonic() - began))
    return made, float(mark.read_text())


def beside(name: str, run: Run, alone: float, whole: float) -> dict[str, float]:
    """What a run found, and how many of it the search cost."""
    assert run.verdict is not None
    return {name: round(run.verdict["test"]["value"], 4), f"{name}_seconds": round(alone, 1), "run_equivalents": round(whole / alone, 2)}


def main() -> None:
    """Alternate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/search_cost"))
    parser.add_argument("--sets", nargs="+", default=["sst2", "agnews", "subj", "trec", "banking20"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--budget", default="2x")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--peer", help="a Python with transformers, accelerate and optuna")
    parser.add_argument("--trials", type=int, default=16, help="of the peer")
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 6], help="least and most, of the peer")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64], help="of the peer")
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--only-peer", action="store_true", help="our runs later")
    parser.add_argument(
        "--only-search", action="store_true", help="without the run of the default beside it: what is found, not what it costs"
    )
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for module in IMPORTS:
        importlib.import_module(module)
    for seed in range(1, asked.seeds + 1):
        for name in asked.sets:
            train, test = files(asked.data, asked.out, name, asked.rows)
            fixed = [f"data.test={test}", "data.validation_share=0.2", *asked.set]
            of = [name, str(asked.rows), *([asked.base] if asked.base != "minilm-l6" else [])]
            if asked.peer and seed == 1:
                out = asked.out / "-".join([*of, f"peer-{asked.trials}"])
                found = peer(out, train, test, asked)
                print(json.dumps({"set": name, "peer": found}), flush=True)
            if asked.only_peer:
                continue
            given: dict[str, Any] = {"base": asked.base, "set": fixed, "seed": seed, "reporter": Lines(), "force": True}
            tag = "-".join([*of, str(seed), *(item.replace("=", "") for item in asked.set)])
            alone_at, searched_at = asked.out / f"{tag}-default", asked.out / f"{tag}-{asked.budget}"
            study, whole = time_run(searched_at, partial(luthier.search, train, out=searched_at, budget=asked.budget, **given))
            assert study.verdict is not None and isinstance(study, Study) and study.winner is not None
            winner = study.entries_named("proposed")[int(study.winner.folder.relative_to(study.folder / "trials").parts[0])]["values"]
            told: dict[str, Any] = {
                "set": name,
                "seed": seed,
                "searched": round(study.verdict["test"]["value"], 4),
                "winner": winner,
                "seconds": round(whole, 1),
            }
            if not asked.only_search:
                run, alone = time_run(alone_at, partial(luthier.run, train, out=alone_at, **given))
                told |= beside("default", run, alone, whole)
                if value_at(Experiment.load(run.folder / "experiment.yaml"), "adaptation.kind") != "full":
                    moving_at, kept = asked.out / f"{tag}-moving", [item for item in fixed if not item.startswith("adaptation.")]
                    given["set"] = [*kept, "adaptation.kind=full"]
                    told["frozen_run_equivalents"] = told["run_equivalents"]
                    told |= beside("moving", *time_run(moving_at, partial(luthier.run, train, out=moving_at, **given)), whole)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
