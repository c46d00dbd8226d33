"""`luthier check` on 100,000 rows: seconds and the most memory that it and its children held.

The rows are pairs of real sentences from three sets, one in a hundred with a copy that has a word changed.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path


def sentences(data: Path) -> list[tuple[str, str]]:
    """Label and text of SST-2, reviews and subjectivity."""
    found = [
        (label, text)
        for text, label in (line.split("\t") for line in (data / "sst2" / "train.tsv").read_text().split("\n") if "\t" in line)
    ]
    for name in ("rt-polarity.all", "subj.all"):
        lines = (data / "sentence_sets" / name).read_bytes().decode("latin-1").split("\n")
        found += [(pair[0], pair[1]) for pair in (line.split(" ", 1) for line in lines) if len(pair) == 2]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/check_scale"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--no-model", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"{given.rows}.jsonl"
    if not file.exists():
        draw = random.Random(0)
        pool = sentences(given.data)
        rows = []
        while len(rows) < given.rows:
            (label, one), (_, two) = draw.choice(pool), draw.choice(pool)
            text = f"{one} {two}".replace("\u2028", " ")
            rows.append({"text": text, "label": label})
            if draw.random() < 0.01:
                words = text.split()
                words[draw.randrange(len(words))] = "indeed"
                rows.append({"text": " ".join(words), "label": label})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[: given.rows]))
    began = time.monotonic()
    asked = [sys.executable, "-m", "luthier", "check", str(file), "--json", "--quiet", *(["--no-model"] if given.no_model else [])]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = json.loads(done.stdout)
    print(
        json.dumps(
            {"rows": found["rows"], "seconds": round(seconds, 1), "gigabytes": round(most / 1e9, 2), "findings": len(found["findings"])}
        )
    )
