"""Language models from scratch: against nanoGPT on Shakespeare, against counting and xz on ten novels, and the memory that 100 million tokens take.

    python benchmarks/causal_lm.py --data DIR [--nanogpt DIR] [--peer-python PYTHON] [--quick] --out runs/causal_lm

`shakespeare`: nanoGPT's setting for processors (4 blocks, 4 heads, width 128, context 64, 12 rows a step, 2,000 steps, no dropout; its README says 1.88), three
seeds, alternating with ours: as many blocks, heads, rows and steps on the same first nine tenths, the loss of the last tenth, in nats a character. nanoGPT runs
unchanged but for its seed, from a checkout of github.com/karpathy/nanoGPT (`--nanogpt`; fetched with git where none is given).
`novels`: `luthier run gutenberg --task causal_lm --budget 20m`: what is lost against the 5-gram and xz, from its verdict.
`memory`: the novels again and again, their lines shuffled, up to 100 million tokens: read, encoded and trained for 20 steps in a process of its own; the most
memory it took, less what the same takes on one novel.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

SETTING = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "dropout": 0.0}
ROWS, CONTEXT = 12, 64

OURS = """
import sys, time
from statistics import median
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
configure_torch()
folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = Data(path=folder + "/train.txt", validation=folder + "/validation.txt", test=folder + "/test.txt", task="causal_lm", allow_leakage=True)
dataset = load_dataset(data, checks=())
experiment, _ = starting_experiment(dataset, None, seed, scratch=True)
experiment = decide_device_fields(experiment.set("objective.vocabulary=257", "objective.depth=4", "objective.width=128", "objective.heads=4", "objective.context=64",
                                    "training.batch_size=12", f"training.steps={count}", *sys.argv[4:]))
work = assemble(experiment, None, family_of("causal_lm").load_processor(None, experiment.objective, dataset), dataset.records)
times, before = [], time.monotonic()
for step in steps(work):
    now = time.monotonic()
    times.append((now - before) / step.tokens)
    before = now
found = measure(score(work.model, work.objective, work.validation), ("loss", "bits_per_byte"))
print("RESULT", found["loss"], 1 / median(times), experiment.training.dtype, experiment.optimizer.lr)
"""

MEMORY = """
import resource, sys, time
from luthier.data.spec import Data
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
configure_torch()
began = time.process_time()
dataset = load_dataset(Data(path=sys.argv[1], task="causal_lm"))
experiment, _ = starting_experiment(dataset, None, 1, scratch=True)
experiment = decide_device_fields(experiment.set("objective.vocabulary=4000", "objective.depth=4", "training.batch_size=8", "training.steps=20"))
work = assemble(experiment, None, family_of("causal_lm").load_processor(None, experiment.objective, dataset), dataset.records)
tokens = sum(example.size for example in work.train) + sum(example.size for example in work.validation)
for step in steps(work):
    pass
print("RESULT", tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time() - began)
"""


def result_of(command: list[str], **more: Any) -> list[str]:
    """What a script said behind RESULT."""
    done = subprocess.run(command, capture_output=True, text=True, **more)
    line = next((line for line in done.stdout.split("\n") if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(done.stderr[-2000:])
    return line.split()[1:]


def prepare_shakespeare(data: Path, out: Path) -> Path:
    """The first nine tenths, and the last one twice: nanoGPT has no test rows."""
    folder = out / "shakespeare"
    folder.mkdir(parents=True, exist_ok=True)
    text = (data / "tinyshakespeare" / "input.txt").read_text()
    cut = int(0.9 * len(text))
    for name, part in (("train", text[:cut]), ("validation", text[cut:]), ("test", text[cut:])):
        (folder / f"{name}.txt").write_text(part)
    return folder


def prepare_nanogpt(given: Path | None, data: Path, out: Path, python: str) -> Path:
    """A checkout of nanoGPT beside the results, with its own preparation of the data."""
    place = out / "nanoGPT"
    if not (place / "data/shakespeare_char/train.bin").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", str(given or "https://github.com/karpathy/nanoGPT"), str(place)], check=True)
        shutil.copy(data / "tinyshakespeare" / "input.txt", place / "data/shakespeare_char/input.txt")
        subprocess.run([python, "data/shakespeare_char/prepare.py"], cwd=place, check=True, capture_output=True)
    return place


def nanogpt(place: Path, python: str, seed: int, steps: int) -> tuple[float, float]:
    """Its validation loss after all steps, and its tokens a second."""
    script = place / f"train_{seed}.py"
    script.write_text((place / "train.py").read_text().replace("torch.manual_seed(1337", f"torch.manual_seed({1336 + seed}"))
    options = {**SETTING, "max_iters": steps, "lr_decay_iters": steps, "eval_interval": steps, "eval_iters": 200, "log_interval": 1}
    command = [python, script.name, "config/train_shakespeare_char.py", "--device=cpu", "--compile=False"]
    done = subprocess.run([*command, *(f"--{name}={value}" for name, value in options.items())], cwd=place, capture_output=True, text=True)
    losses = re.findall(rf"step {steps}: train loss [0-9.]+, val loss ([0-9.]+)", done.stdout)
    times = [float(found) / 1000 for found in re.findall(r"time ([0-9.]+)ms", done.stdout)]
    if done.returncode or not losses:
        raise SystemExit(f"nanoGPT ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return float(losses[-1]), ROWS * CONTEXT / median(times)


def shakespeare(options: argparse.Namespace, keep: Any) -> None:
    """Ours and nanoGPT, one seed after the other."""
    folder = prepare_shakespeare(options.data, options.out)
    place = prepare_nanogpt(options.nanogpt, options.data, options.out, options.peer_python)
    steps = 200 if options.quick else 2000  # nanoGPT warms up for 100
    for seed in (1,) if options.quick else (1, 2, 3):

        def ours(seed: int = seed) -> dict[str, Any]:
            loss, speed, dtype, rate = result_of([sys.executable, "-c", OURS, str(folder), str(seed), str(steps)])
            return {"loss": float(loss), "tokens_per_second": float(speed), "dtype": dtype, "learning_rate": float(rate)}

        def theirs(seed: int = seed) -> dict[str, Any]:
            loss, speed = nanogpt(place, options.peer_python, seed, steps)
            return {"loss": loss, "tokens_per_second": speed}

        keep(f"shakespeare ours seed {seed} steps {steps}", ours)
        keep(f"shakespeare nanoGPT seed {seed} steps {steps}", theirs)


def novels(options: argparse.Namespace, keep: Any) -> None:
    """A whole run on the ten novels."""

    def find() -> dict[str, Any]:
        run = options.out / ("novels_quick" if options.quick else "novels")
        shutil.rmtree(run, ignore_errors=True)
        limit = ["--set", "training.steps=60", "--force"] if options.quick else ["--budget", "20m"]
        done = subprocess.run([sys.executable, "-m", "luthier", "run", str(options.data / "gutenberg"), "--task", "causal_lm", "--out", str(run), *limit],
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        verdict = json.loads((run / "verdict.json").read_text())
        others = [verdict["trivial"], *verdict["others"]]
        return {"bits_per_byte": verdict["test"]["value"], "low": verdict["test"]["low"], "high": verdict["test"]["high"], "seconds": verdict["seconds"],
                "verdict": verdict["verdict"], **{other["name"]: other["value"] for other in others}}  # fmt: skip

    keep("novels", find)


def memory(options: argparse.Namespace, keep: Any) -> None:
    """What a large corpus takes beside a small one."""
    texts = [path.read_text() for path in sorted((options.data / "gutenberg").glob("*.txt"))]

    def measure(size: int) -> dict[str, Any]:
        file = options.out / f"corpus_{size}.txt"
        chance = random.Random(0)
        if not file.exists() or file.stat().st_size < size:
            with file.open("w") as written:
                while written.tell() < size:
                    lines = chance.choice(texts).split("\n")
                    chance.shuffle(lines)
                    written.write("\n".join(lines)[: size - written.tell() + 100])
        tokens, most, seconds = result_of([sys.executable, "-c", MEMORY, str(file)])
        file.unlink()
        return {"characters": size, "tokens": int(tokens), "most_bytes": int(most), "cpu_seconds": float(seconds)}

    for size in (1_000_000, 20_000_000) if options.quick else (1_000_000, 400_000_000):
        keep(f"memory {size}", lambda size=size: measure(size))


def main() -> None:
    """Make what has not been made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nanogpt", type=Path, help="a checkout; fetched where none is given")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", choices=("shakespeare", "novels", "memory"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/causal_lm"))
    options = parser.parse_args()
    options.data, options.out = options.data.absolute(), options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.jsonl"
    done = {line["what"] for line in map(json.loads, kept.read_text().splitlines())} if kept.exists() else set()

    def keep(what: str, make: Any) -> None:
        name = f"{what}{' (quick)' if options.quick else ''}"
        if name in done:
            return
        line = json.dumps({"what": name, **make()})
        print(line, flush=True)
        with kept.open("a") as file:
            file.write(line + "\n")

    for part in (shakespeare, novels, memory):
        if options.only in (None, part.__name__):
            part(options, keep)


if __name__ == "__main__":
    main()
