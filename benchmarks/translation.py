"""Translation on Multi30k en→de: tokens a second against transformers' Seq2SeqTrainer, greedy decoding against `generate`, and BLEU on test2016 by minutes.

    python benchmarks/translation.py speed   --data DIR --peer PYTHON     # training and decoding, ours and theirs alternating
    python benchmarks/translation.py quality --data DIR                   # the default `luthier run`; the curve of the validation scores by seconds

The peer trains the same network from the same weights on the same tokens in the same order of rows, with padding to the longest row of a step; tokens are counted
without padding. `--data` holds `multi30k` as its repository lays it out; `--peer` is an interpreter with transformers and accelerate. `--quick`: a few steps and rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from classify_speed import figures, time_steps

PREPARE = """
import json, sys
from pathlib import Path
from luthier.data.spec import Data
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
configure_torch()
folder = Path(sys.argv[1])
dataset = load_dataset(Data(path=str(folder / "train.tsv"), validation=str(folder / "validation.tsv"), test=str(folder / "test.tsv"), task="translation",
                      input=("en",), target="de", allow_leakage=True), checks=())
experiment, _ = starting_experiment(dataset, None, 1)
experiment = decide_device_fields(experiment)
work = assemble(experiment, None, family_of("translation").load_processor(None, experiment.objective, dataset), dataset.records)
work.model.network.save_pretrained(folder / "network")
with (folder / "tokens.jsonl").open("w") as file:
    for number in range(int(sys.argv[2])):
        for row in work.examples_of_step(number):
            file.write(json.dumps({"input_ids": row.tokens, "labels": row.target}) + "\\n")
test = work.objective.prepare(dataset.records["test"])
with (folder / "held.jsonl").open("w") as file:
    file.writelines(json.dumps({"input_ids": row.tokens}) + "\\n" for row in test)
(folder / "step.json").write_text(json.dumps({"batch": experiment.training.batch_size, "lr": experiment.optimizer.lr, "dropout": experiment.model.dropout}))
print("RESULT", experiment.training.batch_size)
"""
OURS = """
import json, sys, time
from pathlib import Path
from luthier.data.spec import Data
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
configure_torch()
folder, count, dtype = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dataset = load_dataset(Data(path=str(folder / "train.tsv"), validation=str(folder / "validation.tsv"), test=str(folder / "test.tsv"), task="translation",
                      input=("en",), target="de", allow_leakage=True), checks=())
experiment, _ = starting_experiment(dataset, None, 1)
experiment = decide_device_fields(experiment.replace("training.dtype", dtype))
work = assemble(experiment, None, family_of("translation").load_processor(None, experiment.objective, dataset), dataset.records)
""" + time_steps("step.tokens")
TRAINERS = """
import json, sys, tempfile, time
import torch
from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
folder, count, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
step = json.load(open(folder + "/step.json"))
rows = [json.loads(line) for line in open(folder + "/tokens.jsonl")][: step["batch"] * (count + 2)]
model = AutoModelForSeq2SeqLM.from_pretrained(folder + "/network", dtype=torch.float32, dropout=step["dropout"])
def collate(rows):
    def padded(lists, filler):
        longest = max(map(len, lists))
        return torch.tensor([[*each, *[filler] * (longest - len(each))] for each in lists])
    sources, targets = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
    labels = padded(targets, -100)
    return {"input_ids": padded(sources, 0), "attention_mask": padded([[1] * len(each) for each in sources], 0), "labels": labels,
            "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
class InOrder(Seq2SeqTrainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 2:
            self.began, self.spent = time.monotonic(), time.process_time()
        if state.global_step == count + 2:
            tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in rows[2 * step["batch"]:])
            print("RESULT", tokens / (time.monotonic() - self.began), tokens / (time.process_time() - self.spent))
InOrder(
    model=model,
    args=Seq2SeqTrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=step["batch"], max_steps=count + 2, learning_rate=step["lr"],
                                  label_smoothing_factor=0.1, report_to=[], save_strategy="no", use_cpu=not torch.cuda.is_available(), remove_unused_columns=False,
                                  bf16=dtype == "bfloat16", logging_steps=100000, disable_tqdm=True),
    train_dataset=rows, data_collator=collate, callbacks=[Watch()],
).train()
"""
WRITES = """
import json, sys, time
import torch
folder, count, whose, beams = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
from transformers import AutoModelForSeq2SeqLM
rows = sorted((json.loads(line)["input_ids"] for line in open(folder + "/held.jsonl")), key=len)[:count]
network = AutoModelForSeq2SeqLM.from_pretrained(folder + "/network", dtype=torch.float32).eval()
limit = 24  # an untrained network does not stop: both write so many tokens
if whose == "luthier":
    from luthier.models.encoder_decoder import EncoderDecoder
    from luthier.models.translate import Writing, write
    model = EncoderDecoder(network, 0.0).eval()
def once(part):
    if whose == "luthier":
        return write(model, part, [limit] * len(part), Writing(network.config.eos_token_id, (0,), beams))
    longest = max(map(len, part))
    ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in part])
    seen = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in part])
    return network.generate(input_ids=ids, attention_mask=seen, num_beams=beams, do_sample=False, max_new_tokens=limit, suppress_tokens=[0])
once(rows[:8])
began, spent = time.monotonic(), time.process_time()
for start in range(0, len(rows), 64):
    once(rows[start : start + 64])
print("RESULT", len(rows) / (time.monotonic() - began), len(rows) / (time.process_time() - spent))
"""


def lay_out(data: Path, folder: Path, most: int | None) -> None:
    """Multi30k as three tables of pairs, in `folder`."""
    raw = data / "multi30k" / "data" / "task1" / "raw"
    for name, part in (("train", "train"), ("val", "validation"), ("test_2016_flickr", "test")):
        sides: list[Sequence[str]] = []
        for language in ("en", "de"):
            with gzip.open(raw / f"{name}.{language}.gz", "rt", encoding="utf-8") as file:
                sides.append([line.rstrip("\n") for line in file][:most])
        lines = [f"{one}\t{two}\n" for one, two in zip(*sides, strict=True)]
        (folder / f"{part}.tsv").write_text("en\tde\n" + "".join(lines))


def measure_speed(given: argparse.Namespace, folder: Path) -> None:
    """Alternating rounds; what is there already is kept."""
    results = given.out / "speed.jsonl"
    kept = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    steps, rows, rounds = (4, 64, 1) if given.quick else (given.steps, 1000, given.rounds)
    if not (folder / "step.json").exists():
        figures(sys.executable, PREPARE, folder, steps + 2)
    for number in range(len(kept), rounds):
        row: dict[str, Any] = {"round": number, "unit": "[by the clock, by processor time]"}
        for dtype in given.dtypes:
            row[f"train luthier {dtype}"] = figures(sys.executable, OURS, folder, steps, dtype)
            row[f"train trainer {dtype}"] = figures(given.peer, TRAINERS, folder, steps, dtype)
        for beams in (1, 4):
            for whose in ("luthier", "generate"):
                python = sys.executable if whose == "luthier" else given.peer
                row[f"write {whose} beams {beams}"] = figures(python, WRITES, folder, rows, whose, beams)
        kept.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    names = [name for name in kept[0] if name.startswith(("train luthier", "write luthier"))]
    pairs = [(name, name.replace("train luthier", "train trainer").replace("write luthier", "write generate")) for name in names]
    ratios = {ours: [median(row[ours][unit] / row[theirs][unit] for row in kept) for unit in (0, 1)] for ours, theirs in pairs}
    print(json.dumps({"ratios [clock, processor time]": ratios}))


def measure_quality(given: argparse.Namespace, folder: Path) -> None:
    """The default run, resumed where it was stopped; BLEU and chrF on the official test rows, and the curve of the validation scores."""
    import luthier
    from luthier.app.reporters import Lines

    place = given.out / "run"
    if (place / "experiment.yaml").exists():
        run = luthier.resume(place, reporter=Lines())
    else:
        changes = ["data.allow_leakage=true", *(["training.epochs=1"] if given.quick else []), *given.set]
        run = luthier.run(folder / "train.tsv", validation=folder / "validation.tsv", test=folder / "test.tsv", task="translation", input="en",
                          target="de", out=place, set=changes, force=True, reporter=Lines())  # fmt: skip
    verdict = run.verdict or {}
    timed = sorted((line["step"], line["seconds"]) for line in run.lines("timing.jsonl"))
    curve, spent = [], 0.0
    for line in run.lines("metrics.jsonl"):
        if "evaluation" in line:
            spent = sum(seconds for step, seconds in timed if step <= line["step"])
            curve.append({"step": line["step"], "training_seconds": round(spent, 1), **line["evaluation"]})
    print(
        json.dumps({"test": verdict.get("test"), "answers": verdict.get("answers"), "against": verdict.get("difference"), "curve": curve})
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "quality"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    arguments = parser.parse_args()
    rows_folder = arguments.out / ("quick" if arguments.quick else "rows")
    rows_folder.mkdir(parents=True, exist_ok=True)
    if not (rows_folder / "test.tsv").exists():
        lay_out(arguments.data, rows_folder, 2_000 if arguments.quick else None)
    {"speed": measure_speed, "quality": measure_quality}[arguments.what](arguments, rows_folder)
