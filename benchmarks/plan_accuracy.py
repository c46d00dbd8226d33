"""`luthier plan` against what then happened: time and peak memory of training, on configurations that nothing was fitted on.

Each is planned, then trained (to the same number of steps, evaluations included) in a fresh process. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import luthier

FEEDBACK, CLAUSES = "examples/feedback/feedback.csv", "examples/contracts/clauses.jsonl"
CHAT = ("--task", "chat", "--input", "clause", "--target", "plain_english")
CONFIGURATIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "batches of 8": (FEEDBACK, (), ("training.batch_size=8", "training.steps=60")),
    "batches of 32": (FEEDBACK, (), ("training.batch_size=32", "training.steps=24")),
    "batches of 128": (FEEDBACK, (), ("training.batch_size=128", "training.steps=8")),
    "batches of 128 in pieces of 256 tokens": (FEEDBACK, (), ("training.batch_size=128", "training.steps=8", "training.micro_batch_tokens=256")),
    "frozen to depth 4": (FEEDBACK, (), ("adaptation.kind=freeze", "adaptation.depth=4", "training.steps=40")),
    "adapters": (FEEDBACK, (), ("adaptation.kind=lora", "training.steps=40")),
    "dropout 0.3": (FEEDBACK, (), ("model.dropout=0.3", "training.steps=30")),
    "rows cut at 24 tokens": (FEEDBACK, (), ("objective.max_length=24", "training.steps=40")),
    "windows of 16 tokens": (FEEDBACK, (), ("objective.long_rows=windows", "objective.max_length=16", "objective.overlap=4", "training.steps=30")),
    "chat, adapters, short": (CLAUSES, CHAT, ("adaptation.kind=lora", "objective.max_length=96", "training.batch_size=4", "training.steps=10")),
    "chat, full, short": (CLAUSES, CHAT, ("objective.max_length=96", "training.batch_size=4", "training.steps=6")),
}  # fmt: skip

TRAINED = """
import json, sys, tempfile, time
from pathlib import Path
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.families.recognise import load_dataset
from luthier.experiment import Experiment
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.forecast import peak
from luthier.training.train import Fit
from luthier.training.watchers import Signals
configure_torch()
experiment = decide_device_fields(Experiment.load(Path(sys.argv[1])).replace("training.patience", 1000))
dataset = load_dataset(experiment.data, checks=())
base = resolve(experiment.model.base)
work = assemble(experiment, base, load_tokenizer(base), dataset.records)
with tempfile.TemporaryDirectory() as folder, Signals() as signals:
    began = time.monotonic()
    Fit(Run.create(Path(folder) / "run"), work, NullReporter(), signals).finish()
    print("RESULT", json.dumps({"seconds": time.monotonic() - began, "memory": peak()}))
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/plan_accuracy"))
    parser.add_argument("--only", nargs="*", default=list(CONFIGURATIONS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in given.only:
        kept = given.out / f"{name.replace(' ', '-')}.json"
        if not kept.exists():
            data, more, changes = CONFIGURATIONS[name]
            folder = given.out / f"plan-{name.replace(' ', '-')}"
            if not folder.exists():
                options = dict(zip((word.removeprefix("--") for word in more[::2]), more[1::2], strict=True))
                luthier.run(data, out=folder, set=changes, plan_only=True, **options)  # type: ignore[arg-type]
            told = luthier.plan(folder).forecast
            done = subprocess.run(
                [sys.executable, "-c", TRAINED, str(folder / "experiment.yaml")], capture_output=True, text=True, check=False
            )
            if "RESULT " not in done.stdout:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            real = json.loads(done.stdout.split("RESULT ", 1)[1])
            kept.write_text(json.dumps({"configuration": name, "told": told, "real": real}))
        result = json.loads(kept.read_text())
        row = {
            "configuration": name,
            **{f"{key}_told": round(result["told"][key], 2) for key in ("seconds", "memory")},
            **{f"{key}_real": round(result["real"][key], 2) for key in ("seconds", "memory")},
            **{f"{key}_off": round(result["told"][key] / result["real"][key] - 1, 3) for key in ("seconds", "memory")},
        }
        found.append(row)
        print(json.dumps(row), flush=True)
    for key in ("seconds", "memory"):
        print(json.dumps({"of": len(found), key: sum(abs(row[f"{key}_off"]) <= 0.2 for row in found), "within": "20 %"}))
