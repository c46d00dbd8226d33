"""Token labels beside transformers' Trainer as its run_ner sets it up: span F1 on the same test rows, alternating, and the processor seconds of each.

    python benchmarks/token_labels.py --data DIR [--quick] [--peer-python PYTHON] --out runs/token_labels

Both train the same base on the training rows of our split, with our learning rate, batch size and epochs; both are judged on its test rows by the same count of spans whose start, end and
label are right. The peer does as run_ner does: words (ours: words and punctuation marks), `is_split_into_words`, the first piece of a word carries its label, linear decay, dynamic padding,
the last weights. It needs the package `accelerate`, in an environment of its own where ours lacks it (`--peer-python`). A finished run is not made again.
Reads `questions.jsonl` of DIR, such as examples/token_labels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

OURS = """
import json, resource, sys
import luthier
from luthier.experiment import Experiment
rows, out, seed, epochs = sys.argv[1:5]
run = luthier.run(rows, out=out + "/run", set=["data.group=table", f"seed={seed}", *([f"training.epochs={epochs}"] if epochs != "0" else [])], force=True)
experiment = Experiment.load(run.folder / "experiment.yaml")
lines = open(rows).read().splitlines()
parts = {part: [place[1] for place in places] for part, places in run.json("splits.json")["rows"].items()}
test = [json.loads(lines[line - 1])["text"] for line in parts["test"]]
said = [[[one["start"], one["end"], one["label"]] for one in row["spans"]] for row in luthier.predict(run.folder, test)]
used = resource.getrusage(resource.RUSAGE_SELF)
json.dump({"parts": parts, "said": said, "lr": experiment.optimizer.lr, "batch": experiment.training.batch_size, "epochs": experiment.training.epochs,
           "processor_seconds": used.ru_utime, "verdict": run.verdict["test"]}, open(out + "/ours.json", "w"))
"""

PEER = """
import json, resource, sys
import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, Trainer, TrainingArguments
path, out, seed, folder, words_of = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], json.load(open(sys.argv[5]))
ours = json.load(open(out + "/ours.json"))
lines = open(path).read().splitlines()
kinds = sorted({span["label"] for line in ours["parts"]["train"] for span in json.loads(lines[line - 1])["spans"]})
tags = ["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]
tokenizer = AutoTokenizer.from_pretrained(folder)
def row(line):
    value, words = json.loads(lines[line - 1]), words_of[line - 1]
    labels = [0] * len(words)
    for span in value["spans"]:
        inside = [place for place, (start, end) in enumerate(words) if start < span["end"] and end > span["start"]]
        for place in inside:
            labels[place] = tags.index(("B-" if place == inside[0] else "I-") + span["label"])
    encoded = tokenizer([value["text"][start:end] for start, end in words], is_split_into_words=True, truncation=True, max_length=256)
    ids = encoded.word_ids()
    return {**encoded, "labels": [-100 if word is None or (place and ids[place - 1] == word) else labels[word] for place, word in enumerate(ids)]}
torch.manual_seed(seed)
model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=len(tags))
arguments = TrainingArguments(out + "/peer", seed=seed, learning_rate=ours["lr"], per_device_train_batch_size=ours["batch"], num_train_epochs=ours["epochs"],
                              warmup_steps=0.1, weight_decay=0.01, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True)
train, test = ([row(line) for line in ours["parts"][part]] for part in ("train", "test"))
trainer = Trainer(model, arguments, train_dataset=train, data_collator=DataCollatorForTokenClassification(tokenizer))
trainer.train()
said = []
model.eval()
for line, encoded in zip(ours["parts"]["test"], test):
    with torch.no_grad():
        best = model(input_ids=torch.tensor([encoded["input_ids"]])).logits[0].argmax(-1).tolist()
    spans, words = [], words_of[line - 1]
    first = [tags[tag] for tag, label in zip(best, encoded["labels"]) if label != -100]
    for place, (tag, (start, end)) in enumerate(zip(first, words)):
        if tag.startswith("I-") and spans and spans[-1][3] == place - 1 and spans[-1][2] == tag[2:]:
            spans[-1][1], spans[-1][3] = end, place
        elif tag != "O":
            spans.append([start, end, tag[2:], place])
    said.append([span[:3] for span in spans])
json.dump({"said": said, "processor_seconds": resource.getrusage(resource.RUSAGE_SELF).ru_utime}, open(out + "/peer.json", "w"))
"""


def span_f1(rows: list[dict[str, object]], said: list[list[list[object]]]) -> float:
    """F1 over the spans of all rows."""
    right = named = there = 0
    for row, spans in zip(rows, said, strict=True):
        true = {(span["start"], span["end"], span["label"]) for span in row["spans"]}  # type: ignore[attr-defined,index]
        found = {tuple(span) for span in spans}
        right, named, there = right + len(true & found), named + len(found), there + len(true)
    return 2 * right / max(named + there, 1)


def main() -> None:
    """Train both with every seed, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder with questions.jsonl")
    options.add_argument("--out", type=Path, default=Path("runs/token_labels"))
    options.add_argument("--peer-python", default=sys.executable)
    options.add_argument("--quick", action="store_true", help="one seed, one epoch: whether it runs")
    given = options.parse_args()
    from luthier.data.spans import words_in
    from luthier.models.store import resolve

    file, folder = given.data / "questions.jsonl", resolve("minilm-l6").folder
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    table = []
    for seed in (1,) if given.quick else (1, 2, 3, 4, 5):
        place = given.out / ("quick" if given.quick else f"seed-{seed}")
        place.mkdir(parents=True, exist_ok=True)
        words = place / "words.json"
        words.write_text(json.dumps([words_in(row["text"]) for row in rows]))
        if not (place / "ours.json").exists():
            subprocess.run([sys.executable, "-c", OURS, str(file), str(place), str(seed), "1" if given.quick else "0"], check=True)
        if not (place / "peer.json").exists():
            subprocess.run([given.peer_python, "-c", PEER, str(file), str(place), str(seed), str(folder), str(words)], check=True)
        ours, peer = (json.loads((place / f"{name}.json").read_text()) for name in ("ours", "peer"))
        test = [rows[line - 1] for line in ours["parts"]["test"]]
        table.append((seed, span_f1(test, ours["said"]), span_f1(test, peer["said"]), ours["processor_seconds"], peer["processor_seconds"]))
        print("seed {}  span F1 ours {:.4f}  run_ner {:.4f}  processor seconds {:.0f} (the whole run), {:.0f}".format(*table[-1]))
    print(f"mean span F1: ours {mean(row[1] for row in table):.4f}, run_ner {mean(row[2] for row in table):.4f}, over {len(table)} seeds")


if __name__ == "__main__":
    main()
