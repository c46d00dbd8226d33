"""Sentence embeddings beside sentence-transformers: the same loss and gradients, the same vectors from a bundle, texts a second, and retrieval after training, alternating.

    python benchmarks/embedding.py --data DIR --peer-python PYTHON [--quick] --out runs/embedding

Loss and gradients: MultipleNegativesRankingLoss (scale 20, cosine) of pairs and of triples, in fp32 without dropout, on all-MiniLM-L6-v2. Speed and quality: pairs of two questions of
the same intent of Banking77 (anchor: another question, positive: the intent's first one), 64 a step, one epoch at 1e-4, one thread; recall@1 and MRR among the positives of held-out rows. The peer runs in an
environment of its own (`--peer-python`, with sentence-transformers, datasets and accelerate). What is measured already lies in OUT and is not measured again. Reads `banking77` of DIR.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

OUR_LOSS = """
import json, sys
import torch
from safetensors.torch import save_file
from luthier.core.types import Record
from luthier.models.embedding import load_embedding
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.objectives.embedding import Embedding
out, kind = sys.argv[1], sys.argv[2]
rows = json.load(open(f"{out}/{kind}.json"))
base = resolve("minilm-l6")
objective = Embedding().open(load_tokenizer(base), tuple(rows[0]), None)
model = load_embedding(base, "mean", 256, 0.0, 0).eval()
loss = objective.loss(model, objective.collate(objective.prepare([Record(number, row) for number, row in enumerate(rows, 1)]), 0, -1))
(loss.total / loss.count).backward()
save_file({name: each.grad.contiguous() for name, each in model.network.named_parameters() if each.grad is not None}, f"{out}/ours-{kind}.safetensors")
print("RESULT", json.dumps([loss.total.item() / loss.count, str(base.folder)]))
"""

PEER_LOSS = """
import json, sys
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Normalize, Pooling, Transformer
out, kind, base = sys.argv[1:4]
rows = json.load(open(f"{out}/{kind}.json"))
body = Transformer(base, max_seq_length=256)
model = SentenceTransformer(modules=[body, Pooling(384, "mean"), Normalize()], device="cpu").float().eval()
loss = MultipleNegativesRankingLoss(model)([model.tokenize([row[name] for row in rows]) for name in rows[0]], None)
loss.backward()
named = [module for module in body.modules() if type(module).__name__ == "BertModel"][0].named_parameters()
save_file({name: each.grad.contiguous() for name, each in named if each.grad is not None}, f"{out}/theirs-{kind}.safetensors")
print("RESULT", json.dumps([loss.item(), 0]))
"""

OUR_TRAINING = """
import json, sys, time
import luthier
out, number = sys.argv[1], sys.argv[2]
before = time.process_time()
run = luthier.run(f"{out}/rows", base="minilm-l6", out=f"{out}/run-{number}", force=True,
                  set=["training.epochs=1", "training.batch_size=64", "optimizer.lr=1e-4", "training.dtype=float32", "training.evaluations_per_epoch=1", f"seed={number}"])
whole = time.process_time() - before
seconds = [json.loads(line) for line in open(f"{out}/run-{number}/timing.jsonl")]
test = run.verdict["test"]
print("RESULT", json.dumps([whole, test["value"], test["recall_at_1"]]))
"""

PEER_TRAINING = """
import csv, sys, json, tempfile, time
import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Normalize, Pooling, Transformer
out, number, base = sys.argv[1:4]
torch.set_num_threads(1)
read = lambda part: list(csv.DictReader(open(f"{out}/rows/{part}.csv")))
before = time.process_time()
model = SentenceTransformer(modules=[Transformer(base, max_seq_length=256), Pooling(384, "mean"), Normalize()], device="cpu").float()
arguments = SentenceTransformerTrainingArguments(tempfile.mkdtemp(), num_train_epochs=1, per_device_train_batch_size=64, learning_rate=1e-4, warmup_ratio=0.1, weight_decay=0.01, seed=int(number),
                                                 batch_sampler="no_duplicates", report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no")
SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(read("train")), loss=MultipleNegativesRankingLoss(model)).train()
whole = time.process_time() - before
rows = read("test")
texts = list(dict.fromkeys(row["positive"] for row in rows))
cosines = model.encode([row["anchor"] for row in rows]) @ model.encode(texts).T
right = cosines[np.arange(len(rows)), [texts.index(row["positive"]) for row in rows]]
rank = 1 + (cosines > right[:, None]).sum(1)
print("RESULT", json.dumps([whole, float((1 / rank).mean()), float((rank == 1).mean())]))
"""


def write_rows(data: Path, out: Path, most: int) -> None:
    """Pairs and triples for the losses, and train, validation and test files of pairs; by hash, the same each time."""
    folder = out / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    by_intent: dict[str, list[str]] = {}
    with (data / "banking77" / "train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            by_intent.setdefault(row["category"], []).append(" ".join(row["text"].split()))
    pairs = [(text, texts[0]) for texts in by_intent.values() for text in dict.fromkeys(texts[1:]) if text != texts[0]]
    pairs.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).hexdigest())
    pairs = pairs[:most]
    parts = {"test": pairs[: most // 5], "validation": pairs[most // 5 : most // 4], "train": pairs[most // 4 :]}
    for name, rows in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("anchor", "positive"), *rows])
    different = list({positive: (anchor, positive) for anchor, positive in pairs}.values())[:32]
    triples = [{"anchor": one, "positive": two, "negative": different[16 + place][1]} for place, (one, two) in enumerate(different[:16])]
    (out / "triples.json").write_text(json.dumps(triples))
    (out / "pairs.json").write_text(json.dumps([{name: row[name] for name in ("anchor", "positive")} for row in triples]))


def measure(out: Path, name: str, python: str, code: str, *given: Any) -> list[Any]:
    """What a program prints behind RESULT; what is known already is not asked again."""
    kept = out / f"{name}.result"
    if not kept.exists():
        done = subprocess.run(
            [python, "-c", code, *map(str, given)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        kept.write_text(done.stdout.split("RESULT")[-1])
    return json.loads(kept.read_text())


def compare(out: Path, kind: str) -> float:
    """How far the two gradients are apart, as a share of their length."""
    from safetensors.torch import load_file

    one, other = (load_file(out / f"{who}-{kind}.safetensors") for who in ("ours", "theirs"))
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())[:4]
    apart = sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5
    return apart / sum(float(other[name].double().square().sum()) for name in one) ** 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--quick", action="store_true", help="losses, gradients and vectors alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/embedding"))
    given = parser.parse_args()
    out = given.out.resolve()
    write_rows(given.data, out, 3_000)
    for kind in ("pairs", "triples"):
        ours, folder = measure(out, f"loss-ours-{kind}", sys.executable, OUR_LOSS, out, kind)
        theirs, _ = measure(out, f"loss-theirs-{kind}", given.peer_python, PEER_LOSS, out, kind, folder)
        print(f"{kind}: loss {ours:.7f} here, {theirs:.7f} there; gradients differ by {compare(out, kind):.1e} of their length")
    if not given.quick:
        rounds = {"ours": [], "theirs": []}  # type: dict[str, list[list[float]]]
        for number in range(given.rounds):
            rounds["ours"].append(measure(out, f"train-ours-{number}", sys.executable, OUR_TRAINING, out, number))
            rounds["theirs"].append(measure(out, f"train-theirs-{number}", given.peer_python, PEER_TRAINING, out, number, folder))
        for who, found in rounds.items():
            seconds, mrr, recall = (median(each[place] for each in found) for place in range(3))
            print(
                f"{who}: {seconds:.0f} s of processor time (ours with proofs, baselines and report), MRR {mrr:.3f}, recall@1 {recall:.3f}; medians of {given.rounds}"
            )
