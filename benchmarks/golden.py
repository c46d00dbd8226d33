"""Has a change to the code changed a bit? Twelve small runs; the SHA-256 of what each leaves is recorded once and compared from then on.

    python benchmarks/golden.py --out DIR                  # the first time: records DIR/golden.json
    python benchmarks/golden.py --out DIR                  # later: makes the runs again and names every file that differs
    python benchmarks/golden.py --out DIR --only windows   # some of them; --record takes what is found as the truth

The bases are tiny networks with random weights, made on the spot from transformers' classes; so the bits hold for one machine and one version of torch. Seconds and
other facts of the clock are left out; so are keys in `RENAMED`, whose values are compared under the new name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import make_base, rows

import luthier
from luthier.core.run import Run

CLOCK = ("seconds", "at", "clock", "time")
"""Keys of facts that another run of the same experiment does not repeat."""
RENAMED: dict[str, str] = {}
"""New name of a key → its old name: a renamed key is no changed bit."""
FILES = ("bundle/*", "bundle/*/*", "metrics.jsonl", "validation_losses/*", "verdict.json", "evaluation.json", "candidate_scores.safetensors", "proofs.json", "splits.json")  # fmt: skip
QUICK = ["training.epochs=2", "optimizer.lr=0.003", "training.checkpoint_seconds=0"]
SYSTEM = "you answer briefly and kindly, and you never speak of the weather, of prices or of yourself"


def write_tables(folder: Path) -> None:
    """The rows of all runs, as files."""
    texts = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(240))]
    long = [{**row, "text": " and then ".join([row["text"]] * (1 + 6 * (number % 3)))} for number, row in enumerate(texts)]
    pairs = [{"premise": row["text"], "hypothesis": f"it was {row['text'].split()[-1]}", "label": row["label"]} for row in texts]
    chats = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(90))]
    shared = [{"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]} for row in chats]  # fmt: skip
    for name, table in (("texts", texts), ("long", long), ("pairs", pairs), ("chats", chats), ("shared", shared)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))


def make_plain(table: str, base: str, *changes: str, **more: Any) -> Callable[[Path], Run]:
    """A run with these changes to its experiment."""
    return lambda out: luthier.run(f"{table}.jsonl", base=f"bases/{base}", out=out, set=[*QUICK, *changes], force=True, **more)


RUNS: dict[str, Callable[[Path], Any]] = {
    "full": make_plain("texts", "bert"),
    "frozen": make_plain("texts", "bert", "adaptation.kind=freeze", "adaptation.depth=2", "training.ships=trained"),
    "gradual": make_plain("texts", "roberta", "adaptation.kind=gradual"),
    "lora": make_plain("texts", "bert", "adaptation.kind=lora", "training.ships=trained"),
    "windows": make_plain("long", "bert", "objective.long_rows=windows", "objective.max_length=32", "objective.overlap=4"),
    "pairs": make_plain("pairs", "bert", "model.dropout=0.1", "training.ships=average"),
    "padded": make_plain("texts", "mpnet"),
    "decoder": make_plain("texts", "qwen2", "objective.label_smoothing=0.1"),
    "chat": make_plain("chats", "llama"),
    "chat-lora": make_plain("chats", "llama", "adaptation.kind=lora"),
    "chat-shared": make_plain("shared", "gemma3_text"),
    "search": lambda out: luthier.search(
        "texts.jsonl", trials=3, budget="3x", base="bases/bert", out=out, force=True, set=["training.epochs=2"]
    ),
}


def without_clock(value: Any) -> Any:
    """A JSON value without what only the clock knows."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): without_clock(one) for key, one in value.items() if key not in CLOCK}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


def hash_of(file: Path) -> str:
    """SHA-256 of a file; of JSON without the clock."""
    content = file.read_bytes()
    if file.suffix in (".json", ".jsonl") and "bundle" not in file.parts:
        lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
        content = json.dumps([without_clock(json.loads(line)) for line in lines], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def hashes_of(folder: Path) -> dict[str, str]:
    """File → hash, of all that decides; of a study that of its winner."""
    verdict = next(iter(sorted(folder.rglob("verdict.json"))))
    place = verdict.parent
    found = sorted({file for pattern in FILES for file in place.glob(pattern) if file.is_file()})
    return {str(file.relative_to(place)): hash_of(file) for file in found}


def main() -> None:
    """Make the runs, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/golden"))
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--record", action="store_true", help="take what is found as the truth")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.out)  # names of bases and tables stand in bundles: they must not depend on the folder
    write_tables(Path())
    for family in ("bert", "roberta", "mpnet", "qwen2", "llama", "gemma3_text"):
        if not Path("bases", family, "config.json").exists():
            make_base(Path("bases", family), family)
    file = Path("golden.json")
    known: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
    wrong = 0
    for name in asked.only.split(",") if asked.only else RUNS:
        shutil.rmtree(Path("runs", name), ignore_errors=True)
        began = time.monotonic()
        RUNS[name](Path("runs", name))
        found = hashes_of(Path("runs", name))
        if asked.record or name not in known:
            known[name] = found
            file.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{name:<12} recorded, {len(found)} files, {time.monotonic() - began:.0f} s", flush=True)
            continue
        differs = sorted(path for path in {*found, *known[name]} if found.get(path) != known[name].get(path))
        wrong += bool(differs)
        print(f"{name:<12} {'DIFFERS: ' + ', '.join(differs) if differs else 'the same'}, {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
