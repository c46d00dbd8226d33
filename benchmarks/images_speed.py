"""Images a second while a classifier of images is trained from scratch, beside transformers' Trainer with the same network, alternating.

    python benchmarks/images_speed.py --data FILE.npz [--peer PYTHON] [--side 64] [--batch 128]

Both train transformers' ResNet of the default run on the first 2,000 images, from the same weights, with the same side, rows a step and learning rate. The peer gets
its images as finished tensors in memory and augments nothing, so that it waits for nothing; nor does ours augment. `--peer` is an interpreter with transformers and
accelerate. Times are by the clock and by the processors; the first two steps are not counted. Rounds that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import numpy as np

from classify_speed import figures, time_steps

ROWS = 2000
OURS = """
import sys, time
from pathlib import Path
from luthier.data.spec import Data
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
configure_torch()
file, count, dtype, side, batch, network = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
dataset = load_dataset(Data(path=str(file), task="image_classification", allow_leakage=True), checks=())
experiment, _ = starting_experiment(dataset, None, 1)
chosen = {"objective.side": side, "training.batch_size": batch, "training.epochs": 1000, "training.dtype": dtype, "optimizer.lr": 1e-3, "augment.share": 0.0}
experiment = decide_device_fields(experiment.set(chosen))
work = assemble(experiment, None, family_of("image_classification").load_processor(None, experiment.objective, dataset), dataset.records)
work.model.network.save_pretrained(network)
""" + time_steps("batch")
TRAINERS = """
import sys, tempfile, time
import numpy as np
import torch
from transformers import ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments
file, count, dtype, side, batch, network = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
arrays = np.load(file)
model = ResNetForImageClassification.from_pretrained(network, dtype=torch.float32)
pixels = torch.from_numpy(arrays["train_images"])[:, None].float() / 127.5 - 1
pixels = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
places = {name: index for index, name in model.config.id2label.items()}
labels = [int(places.get(str(name), 0)) for name in arrays["train_labels"]]
rows = [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels)]
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 2:
            self.began, self.spent = time.monotonic(), time.process_time()
        if state.global_step == count + 2:
            images = batch * count
            print("RESULT", images / (time.monotonic() - self.began), images / (time.process_time() - self.spent))
Trainer(
    model=model,
    args=TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=batch, max_steps=count + 2, learning_rate=1e-3, report_to=[], save_strategy="no",
                           use_cpu=not torch.cuda.is_available(), bf16=dtype == "bfloat16", logging_steps=100000, disable_tqdm=True, dataloader_drop_last=True),
    train_dataset=rows, callbacks=[Watch()],
).train()
"""


def main() -> None:
    """Alternate, keep a line a round, and print the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with train_images and train_labels")
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/images_speed"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = (given.out / "images.npz").resolve()
    if not file.exists():
        with np.load(given.data) as arrays:
            np.savez(file, train_images=arrays["train_images"][:ROWS], train_labels=arrays["train_labels"][:ROWS])
    results = given.out / f"side{given.side}-batch{given.batch}.jsonl"
    kept = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for number in range(len(kept), given.rounds):
        row: dict[str, list[float] | int] = {"round": number}
        for dtype in given.dtypes:
            words = (file, given.steps, dtype, given.side, given.batch, given.out / "network")
            row[f"luthier {dtype}"] = figures(sys.executable, OURS, *words)
            row[f"trainer {dtype}"] = figures(given.peer, TRAINERS, *words)
        kept.append(row)
        with results.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    for dtype in given.dtypes:
        clock, processors = (median(row[f"luthier {dtype}"][unit] / row[f"trainer {dtype}"][unit] for row in kept) for unit in (0, 1))
        print(f"{dtype}: {clock:.2f} times Trainer's images a second, {processors:.2f} times a processor second")


if __name__ == "__main__":
    main()
