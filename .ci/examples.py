"""Runs the command of every family's example, as the table of examples/README.md gives it, in a smaller form; from an empty store, without the hub.

    python .ci/examples.py FOLDER [FAMILY …]

In FOLDER come the store and `runs/<family>`, of all families or those that are named. Each command must end with exit code 0, a verdict of the family that the table says, a report and a bundle that
answers three rows. Two commands run side by side.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from luthier.families import FAMILIES

ROOT = Path(__file__).parent.parent
TABLE_ROW = re.compile(r"^\| `(\w+)` \| `luthier run (examples/[^`]+)`", re.M)
SMALLER = ("--force", "--quiet", "--set", "data.most_rows=400", "training.steps=4")
FROM_SCRATCH, FETCHED = "causal_lm", "smollm2-135m"
"""The language model from scratch stands in for the base of the decoders, which would have to be fetched."""
TEXTS = {
    "causal_lm": ("KING RICHARD:", "My lord,", "What news"),
    "masked_lm": ("We may [MASK] these terms.", "You agree to be [MASK] by them.", "The laws of [MASK] apply."),
    "word2vec": ("she", "house", "letter"),
    "glove": ("she", "house", "letter"),
}
"""What is asked where a row of the data is no question."""


def commands(page: Path = ROOT / "examples" / "README.md") -> list[tuple[str, list[str]]]:
    """Family and arguments of each command in the table, the language model first.

    Raises:
        SystemExit: a family has no command.
    """
    found = [(family, shlex.split(command)) for family, command in TABLE_ROW.findall(page.read_text())]
    if lacking := set(FAMILIES) - {family for family, _ in found}:
        raise SystemExit(f"examples/README.md has no command for {', '.join(sorted(lacking))}")
    return sorted(found, key=lambda pair: pair[0] != FROM_SCRATCH)


def smaller(family: str, arguments: list[str], runs: Path) -> list[str]:
    """The same command with few rows and steps, without its budget: what is worth several runs would be a search."""
    shorter = list(arguments)
    if "--budget" in shorter:
        del shorter[shorter.index("--budget") : shorter.index("--budget") + 2]
    base = ["--base", str(runs / FROM_SCRATCH)] if FAMILIES[family].base == FETCHED else []
    return [*shorter, *base, *SMALLER]


def three_rows(family: str, data: Path, folder: Path) -> str:
    """What the bundle is asked: three texts, or three rows or images of the data, as a file or folder in `folder`."""
    folder.mkdir(parents=True)
    if family in TEXTS:
        file = folder / "rows.txt"
        file.write_text("".join(f"{text}\n" for text in TEXTS[family]))
        return str(file)
    pictured = data if data.is_dir() else data.parent  # a table names the images below its own folder
    images = sorted(pictured.rglob("*.png"))[:3] if FAMILIES[family].kind.images else []
    for image in images:
        shutil.copy(image, folder)
    if images:
        return str(folder)
    source = data / "test.csv" if data.is_dir() else data
    file = folder / f"rows{source.suffix}"
    with source.open(newline="") as rows, file.open("w", newline="") as out:
        if source.suffix == ".jsonl":
            out.writelines(itertools.islice(rows, 3))
        else:
            mark = "\t" if source.suffix == ".tsv" else ","
            csv.writer(out, delimiter=mark, lineterminator="\n").writerows(itertools.islice(csv.reader(rows, delimiter=mark), 4))
    return str(file)


def environment(work: Path) -> dict[str, str]:
    """Variables of a command: a store of its own, no hub, one thread."""
    return {**os.environ, "LUTHIER_HOME": str(work / "store"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def output_of(command: list[str], name: str, folder: Path, variables: Mapping[str, str]) -> str:
    """What a command prints on its standard output; `name` is what a fault calls it.

    Raises:
        SystemExit: it did not end with 0.
    """
    process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240, check=False)
    if process.returncode:
        raise SystemExit(f"{name}\n{process.stdout}{process.stderr}\nexit code {process.returncode}")
    return process.stdout


def luthier(arguments: list[str], work: Path) -> str:
    """What a luthier command prints."""
    return output_of([sys.executable, "-m", "luthier", *arguments], f"luthier {shlex.join(arguments)}", ROOT, environment(work))


def try_example(family: str, arguments: list[str], work: Path, run: Path) -> str:
    """Run one, and ask its bundle; gives a line that says what came of it.

    Raises:
        SystemExit: something that a run has to leave is not there.
    """
    luthier(["run", *smaller(family, arguments, work / "runs"), "--out", str(run)], work)
    verdict = json.loads((run / "verdict.json").read_text())
    if verdict["task"] != family:
        raise SystemExit(f"luthier run {shlex.join(arguments)} was read as {verdict['task']}, not {family}")
    for file in ("report.html", "bundle/luthier.json"):
        if not (run / file).is_file():
            raise SystemExit(f"luthier run {shlex.join(arguments)} left no {file}")
    rows = three_rows(family, ROOT / arguments[0], work / "rows" / run.name)
    answers = [json.loads(line) for line in luthier(["predict", str(run), rows, "--limit", "8", "--json"], work).splitlines()]
    if len(answers) != 3 or not all(answers):
        raise SystemExit(f"{family}: three rows were asked, {len(answers)} answered: {answers}")
    return f"{family}: {verdict['verdict']}"


def main() -> int:
    """Run them all; the first fault ends it."""
    work, wanted = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(FAMILIES)
    if unknown := set(wanted) - set(FAMILIES):
        raise SystemExit(f"there is no family {', '.join(sorted(unknown))}")
    luthier(["models", "pull", "minilm-l6"], work)
    examples, count = [], Counter[str]()
    for family, arguments in commands():
        count[family] += 1
        if family in wanted:
            name = family if count[family] == 1 else f"{family}-{count[family]}"
            examples.append((family, arguments, work, work / "runs" / name))
    if examples[0][0] == FROM_SCRATCH:  # others begin from it
        print(f"examples: {try_example(*examples.pop(0))}", flush=True)
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda example: try_example(*example), examples):
            print(f"examples: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
