"""Are time budgets kept? Twenty of them over three sets and two tasks, half of them beside a program that begins in the middle.

Each is a `luthier run` in a process of its own, whose whole wall time counts, imports included. A line is kept for each in OUT/budgets.jsonl, so that the benchmark can be stopped and goes on.

    python benchmarks/budgets.py --data DIR        # DIR holds banking77/train.csv and banking77/test.csv (text, category)
    python benchmarks/budgets.py --data DIR --only feedback-60s,contracts-60s-busy
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from luthier.core.run import Run

HERE = Path(__file__).parent.parent
SETS: dict[str, dict[str, Any]] = {
    "feedback": {"rows": HERE / "examples/feedback/feedback.csv", "arguments": [], "budgets": (30, 60, 90, 120)},
    "banking77": {"rows": Path("banking77/train.csv"), "arguments": ["--target", "category"], "budgets": (60, 180, 300)},
    "contracts": {
        "rows": HERE / "examples/contracts/clauses.jsonl",
        "arguments": ["--task", "chat", "--input", "clause", "--target", "plain_english"],
        "budgets": (60, 240, 600),
    },
}
NEIGHBOUR = "import torch; torch.set_num_threads(2); a = torch.rand(1500, 1500)\nwhile True: a = torch.tanh(a @ a)"
"""Another torch program that uses two threads and never waits."""
STARTS = 0.35
"""Share of the budget after which it starts."""
ALLOWED, FROM = 1.1, 60
"""Times the budget that a run may take, of budgets above so many seconds."""


def plan() -> list[tuple[str, str, int, bool]]:
    """Name, set, seconds, and whether there is a neighbour."""
    return [
        (f"{name}-{seconds}s{'-busy' if busy else ''}", name, seconds, busy)
        for name, one in SETS.items()
        for seconds in one["budgets"]
        for busy in (False, True)
    ]


def run_one(name: str, kind: str, seconds: int, busy: bool, data: Path, out: Path) -> dict[str, Any]:
    """One budget; what came of it.

    Args:
        name: of the run.
        kind: in `SETS`.
        seconds: the budget.
        busy: whether another program begins in the middle.
        data: folder of the data sets.
        out: folder for the run.
    """
    one, folder = SETS[kind], out / name
    shutil.rmtree(folder, ignore_errors=True)
    rows = one["rows"] if one["rows"].is_absolute() else data / one["rows"]
    given = [*one["arguments"], *(["--test", str(data / "banking77/test.csv")] if kind == "banking77" else [])]
    command = [sys.executable, "-m", "luthier", "run", str(rows), *given, "--budget", f"{seconds}s", "--out", str(folder), "--quiet"]
    neighbour: list[subprocess.Popen[bytes]] = []

    def disturb() -> None:
        neighbour.append(subprocess.Popen([sys.executable, "-c", NEIGHBOUR]))

    timer = threading.Timer(STARTS * seconds, disturb)
    began = time.monotonic()
    if busy:
        timer.start()
    try:
        with (out / f"{name}.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False).returncode
    finally:
        taken = time.monotonic() - began
        timer.cancel()
        for process in neighbour:
            process.kill()
            process.wait()
    run = Run(folder)
    winner = next((place.parent for place in folder.rglob("verdict.json")), folder)
    events = [*run.lines("events.jsonl"), *(Run(winner).lines("events.jsonl") if winner != folder else [])]
    refused = [event["smallest"] for event in events if event["event"] == "budget_too_short"]
    verdict = Run(winner).verdict
    return {
        "name": name,
        "budget": seconds,
        "seconds": round(taken, 1),
        "ratio": round(taken / seconds, 3),
        "code": code,
        "refused": refused[-1] if refused else None,
        "verdict": verdict["verdict"] if verdict else None,
        "value": verdict["test"]["value"] if verdict else None,
        "bundle": (folder / "bundle" / "luthier.json").exists(),
        "cuts": [f"{event['before']}→{event['total']} at {event['step']}" for event in events if event["event"] == "cut_while_training"],
        "rows": [f"{event['probe_rows']}, {event['words_rows']}" for event in events if event["event"] == "probe_rows"],
    }


def holds(line: dict[str, Any]) -> bool:
    """Whether a run ended in time with verdict and bundle, or was refused at once."""
    if line["refused"]:
        return line["budget"] <= FROM and line["code"] == 2
    in_time = line["budget"] <= FROM or line["ratio"] <= ALLOWED
    return in_time and line["code"] == 0 and bool(line["verdict"]) and line["bundle"]


def main() -> None:
    """Run what has not been run, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("budgets"), help="where runs and results go")
    parser.add_argument("--only", default="", help="names, with commas")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "budgets.jsonl"
    done = {line["name"]: line for line in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    only = set(filter(None, given.only.split(",")))
    for name, kind, seconds, busy in plan():
        if only and name not in only:
            continue
        if name not in done:
            done[name] = run_one(name, kind, seconds, busy, given.data, given.out)
            with file.open("a") as handle:
                handle.write(json.dumps(done[name]) + "\n")
        line = done[name]
        what = f"refused, {line['refused']} would do" if line["refused"] else f"{line['verdict']} {line['value'] or 0:.3f}, bundle {'yes' if line['bundle'] else 'NO'}"  # fmt: skip
        print(f"{name:<22} {line['seconds']:7.1f} s of {line['budget']:4d}  {line['ratio']:.2f}  {what}  cuts: {'; '.join(line['cuts']) or '-'}  rows: {'; '.join(line['rows']) or '-'}"
              + ("" if holds(line) else "  DOES NOT HOLD"), flush=True)  # fmt: skip
    shown = [line for line in done.values() if not only or line["name"] in only]
    print(f"{sum(map(holds, shown))} of {len(shown)} hold")
    sys.exit(0 if all(map(holds, shown)) else 1)


if __name__ == "__main__":
    main()
