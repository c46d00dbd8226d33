"""Planted copies: how many are found, and how many of those told are planted? On two real sets; then a million rows in bounded memory."""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import time
from pathlib import Path

from luthier.data.near_duplicates import clusters

SETS = {"sst2": ("sst2/train.tsv", "\t", 0), "banking77": ("banking77/train.csv", ",", 0)}
PLANTED = 1000


def texts_of(path: Path, separator: str, column: int) -> list[str]:
    """One column of a table."""
    with path.open(newline="") as file:
        lines = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL)
        return [line[column] for line in lines]


def edit(text: str, words: list[str], draw: random.Random) -> str:
    """One word in ten replaced."""
    parts = text.split()
    for place in draw.sample(range(len(parts)), len(parts) // 10):
        parts[place] = draw.choice(words)
    return " ".join(parts)


def plant(texts: list[str]) -> dict[str, float]:
    """Recall and precision where nothing but what was planted is a near-duplicate."""
    texts = list(dict.fromkeys(texts))
    alone = clusters(texts, 0.45)
    texts = [text for number, text in enumerate(texts) if alone[number] == number]
    draw = random.Random(0)
    words = [word for text in texts for word in text.split()]
    kinds = {
        "exact": lambda text: text,
        "form": lambda text: draw.choice([text.upper(), text.replace(" ", "  ") + " ", text.replace(",", " ;") + "!", text.title()]),
        "words": lambda text: edit(text, words, draw),
    }
    chosen = draw.sample(range(len(texts)), min(PLANTED, len(texts) // 2))
    copies = [(row, kind, kinds[kind](texts[row])) for row in chosen for kind in [draw.choice(list(kinds))]]
    found = clusters([*texts, *(copy for _, _, copy in copies)])
    hits = {
        kind: [found[len(texts) + number] == found[row] for number, (row, own, _) in enumerate(copies) if own == kind] for kind in kinds
    }
    sizes: dict[int, int] = {}
    for first in found:
        sizes[first] = sizes.get(first, 0) + 1
    told = {row for row, first in enumerate(found) if sizes[first] > 1}
    right = told & (set(chosen) | set(range(len(texts), len(found))))
    return {
        "rows": len(texts),
        "planted": len(copies),
        "recall": sum(map(sum, hits.values())) / len(copies),
        **{f"recall_{kind}": sum(each) / len(each) for kind, each in hits.items()},
        "precision": len(right) / len(told),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--million", type=int, default=1_000_000, help="rows of the large run; 0 leaves it out")
    given = parser.parse_args()
    for name in given.sets:
        path, separator, column = SETS[name]
        print(json.dumps({"set": name, **plant(texts_of(given.data / path, separator, column))}), flush=True)
    if given.million:
        words = sorted(
            {
                word
                for path, separator, column in SETS.values()
                for text in texts_of(given.data / path, separator, column)
                for word in text.split()
            }
        )
        draw = random.Random(0)
        rows = [" ".join(draw.choices(words, k=14)) for _ in range(given.million * 9 // 10)]
        rows += [edit(text, words, draw) for text in draw.sample(rows, given.million - len(rows))]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        found = clusters(rows)
        own = len(rows) * 9 // 10
        print(json.dumps({
            "rows": len(rows),
            "seconds": round(time.monotonic() - began, 1),
            "gigabytes_above_the_rows": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6, 2),
            "copies_found": sum(first < own for first in found[own:]) / (len(rows) - own),
        }))  # fmt: skip
