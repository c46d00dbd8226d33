"""Seconds that a training step takes on a quiet machine, and beside one and two other programs that use all processors.

    python benchmarks/busy.py --out runs/busy.jsonl

A process for each setting trains MiniLM (or another `--base`) on examples/feedback, and rests while the others are measured; each figure is the
median over its steps, and the settings take turns. `default` is what `import luthier` sets; `unset` is what libgomp does where nobody says
anything (300,000 turns of waiting). The load of the machine is noted: before quiet figures it must be near zero for them to mean anything.
Rounds that are there are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

FEEDBACK = Path(__file__).parent.parent / "examples" / "feedback" / "feedback.csv"
UNSET = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's own bound where neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is given."""
NO_END = 1e9

STEPS = """
import json, sys, time
import luthier
from luthier.families.recognise import load_dataset
from luthier.data.spec import Data
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
import torch
data, base, dtype, rows, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
configure_torch()
if threads:
    torch.set_num_threads(threads)
dataset = load_dataset(Data(path=data))
base = resolve(base)
experiment, _ = starting_experiment(dataset, base, 1)
experiment = decide_device_fields(experiment.replace("training.dtype", dtype).replace("training.batch_size", rows).replace("training.steps", 100_000), base)
work = steps(assemble(experiment, base, load_tokenizer(base), dataset.records))
print(json.dumps({"dtype": experiment.training.dtype, "threads": torch.get_num_threads()}), flush=True)
for line in sys.stdin:
    times, began = [], time.monotonic()
    while time.monotonic() - began < float(line) or len(times) < 5:
        before = time.monotonic()
        next(work)
        times.append(time.monotonic() - before)
    print(json.dumps(times[1:]), flush=True)
"""

PRODUCTS = """
import torch
torch.set_num_threads(2)
a = torch.rand(768, 768)
print("{}", flush=True)
while True:
    a @ a
"""


class Program:
    """A process that has said that it is ready, and is stopped until it has a turn."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = json.loads(self.line())

    def line(self) -> str:
        """The next that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a program ended before its time")
        return line

    def say(self, word: object) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let it run, and stop it again."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def variables(setting: str) -> dict[str, str]:
    """The environment under a setting: `default`, `unset`, or a number of turns; `/1` behind it stands for one thread."""
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")}
    name = setting.partition("/")[0]
    return clean | ({} if name == "default" else UNSET if name == "unset" else {"GOMP_SPINCOUNT": name})


def trainer(asked: argparse.Namespace, dtype: str, setting: str) -> Program:
    """A training that waits to be told for how many seconds."""
    threads = setting.partition("/")[2] or "0"
    return Program([sys.executable, "-c", STEPS, str(FEEDBACK), asked.base, dtype, str(asked.rows), threads], variables(setting))


def other(kind: str, asked: argparse.Namespace) -> Program:
    """`products`, which multiplies without an end, or `trainer`, another training that waits as libgomp does by itself."""
    if kind == "products":
        made = Program([sys.executable, "-c", PRODUCTS], variables("unset"))
    else:
        made = trainer(asked, "float32", "unset/2")
        made.say(NO_END)
    made.process.send_signal(signal.SIGSTOP)
    return made


def measure(program: Program, others: list[Program], seconds: float) -> dict[str, Any]:
    """The median step beside such programs."""
    with contextlib.ExitStack() as stack:
        for each in others:
            stack.enter_context(each.running())
        load = os.getloadavg()[0]
        program.say(seconds)
        times = json.loads(program.line())
    return {"step": round(median(times), 4), "steps": len(times), "load_before": round(load, 1)} | program.facts


def main() -> None:
    """Take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--rows", type=int, default=16, help="A step.")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "auto"])
    parser.add_argument("--settings", nargs="+", default=["default", "unset", "default/1"], help="default, unset or turns of waiting; /1 for one thread.")  # fmt: skip
    parser.add_argument("--beside", nargs="+", default=["", "products", "trainer", "products,products", "products,trainer"], help="Programs, with commas.")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of steps, for each figure.")
    parser.add_argument("--out", type=Path, default=Path("runs/busy.jsonl"))
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    have = {(row["round"], row["asked"], row["beside"], row["setting"]) for row in kept}
    for dtype in asked.dtypes:
        with contextlib.ExitStack() as stack:
            programs, others = {}, {}
            for turn in range(asked.rounds):
                for beside in asked.beside:
                    for setting in asked.settings:
                        if (turn, dtype, beside, setting) in have:
                            continue
                        if setting not in programs:
                            programs[setting] = trainer(asked, dtype, setting)
                            stack.callback(programs[setting].end)
                        names = [(kind, place) for place, kind in enumerate(beside.split(",")) if kind]
                        for name in names:
                            if name not in others:
                                others[name] = other(name[0], asked)
                                stack.callback(others[name].end)
                        found = measure(programs[setting], [others[name] for name in names], asked.seconds)
                        row = {"round": turn, "asked": dtype, "beside": beside, "setting": setting} | found
                        kept.append(row)
                        with asked.out.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                        print(json.dumps(row), flush=True)
    for dtype in asked.dtypes:
        for setting in asked.settings:
            steps = {beside or "quiet": [row["step"] for row in kept if (row["asked"], row["beside"], row["setting"]) == (dtype, beside, setting)] for beside in asked.beside}  # fmt: skip
            middle = {beside: round(median(found), 4) for beside, found in steps.items() if found}
            ratios = {beside: round(value / middle["quiet"], 2) for beside, value in middle.items()} if "quiet" in middle else {}
            print(json.dumps({"asked": dtype, "setting": setting, "steps": middle, "ratios": ratios}))


if __name__ == "__main__":
    main()
