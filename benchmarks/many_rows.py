"""Memory of reading against the rows a file holds: it must not grow beyond `data.most_rows`.

    python benchmarks/many_rows.py --rows 1000000 3000000 10000000 --most 1000000

Each size is read in a process of its own, whose peak memory is printed; with `--whole` the rows are also checked and split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

READ = """
import json, resource, sys, time
from pathlib import Path
from luthier.families.recognise import load_dataset
from luthier.data.read_rows import read
from luthier.data.spec import Data
path, most, whole = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
count = load_dataset(Data(path=path, most_rows=most)).count if whole else len(read(Path(path), most=most).values)
print(json.dumps({"rows": count, "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "seconds": time.monotonic() - began}))
"""


def write(folder: Path, kind: str, rows: int) -> Path:
    """A file of tiny rows, two classes, each text another one."""
    path = folder / f"{rows}.{kind}"
    with path.open("w") as handle:
        if kind == "csv":
            handle.write("text,label\n")
        for number in range(rows):
            text, label = f"{number * 7919:x} {number * 104729:x}", "ab"[number % 2]
            handle.write(f"{text},{label}\n" if kind == "csv" else f'{{"text": "{text}", "label": "{label}"}}\n')
    return path


def main() -> None:
    """Measure every size and format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl"])
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    for kind in asked.formats:
        for rows in asked.rows:
            with tempfile.TemporaryDirectory() as folder:
                path = write(Path(folder), kind, rows)
                done = subprocess.run([sys.executable, "-c", READ, str(path), str(asked.most), str(asked.whole)], capture_output=True, text=True, check=True)  # fmt: skip
                found = json.loads(done.stdout)
                print(f"{kind:6} {rows:>11,} rows of {path.stat().st_size / 1e6:6.0f} MB: {found['rows']:>9,} kept, {found['MB']:6.0f} MB, {found['seconds']:5.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
