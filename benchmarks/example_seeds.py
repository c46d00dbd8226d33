"""What does `make run` say with other seeds? Its example, in fresh processes; finished runs are kept and read again."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("examples"), help="holds intents/")
    parser.add_argument("--out", type=Path, default=Path("runs/example-seeds"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", default="110s", help="none: all epochs, as a processor with bf16 comes near to")
    asked = parser.parse_args()
    said: Counter[str] = Counter()
    for seed in range(1, asked.seeds + 1):
        folder = asked.out / f"{asked.budget}-{seed}"
        began = time.monotonic()
        if not (folder / "verdict.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            budget = [] if asked.budget == "none" else ["--budget", asked.budget]
            command = [
                sys.executable,
                "-m",
                "luthier",
                "run",
                str(asked.data / "intents"),
                "--seed",
                str(seed),
                "--out",
                str(folder),
                "--quiet",
                *budget,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said[f"exit code {done.returncode}"] += 1
                print(
                    json.dumps({"seed": seed, "exit_code": done.returncode, "why": done.stderr.strip()[-500:], "so_far": dict(said)}),
                    flush=True,
                )
                continue
        verdict = json.loads((folder / "verdict.json").read_text())
        said[verdict["verdict"]] += 1
        values = {one["name"]: round(one["test"]["value"], 4) for one in verdict["candidates"]}
        print(json.dumps({"seed": seed, "verdict": verdict["verdict"], "ships": verdict["ships"], "candidates": values, "difference": verdict["difference"],
                          "seconds": verdict["seconds"], "wall": round(time.monotonic() - began, 1), "so_far": dict(said)}), flush=True)  # fmt: skip
