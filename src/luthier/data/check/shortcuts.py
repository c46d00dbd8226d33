"""A label that can be read off something other than the meaning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from luthier.core.finding import Finding
from luthier.core.randomness import permutation
from luthier.data.check.sheet import Sheet
from luthier.data.sources.images import HEIGHT, MODE, THUMBNAIL, WIDTH

FEWEST = 60
GOOD = 0.5
"""A shortcut is told when it takes away half of what the most frequent class gets wrong."""


def check(sheet: Sheet) -> list[Finding]:
    """Labels foretold by the length alone, by the first or last word alone, or written out in the text; of images by size, file or brightness."""
    if not sheet.classes or len(sheet) < FEWEST:
        return []
    findings = []
    order = permutation(len(sheet), "shortcuts")[:20_000].tolist()
    learned, tested = order[: len(order) // 2], order[len(order) // 2 :]
    floor = Counter(sheet.labels[row] for row in tested).most_common(1)[0][1] / len(tested)
    for name, values in (_of_images if sheet.images else _of_texts)(sheet, learned).items():
        rules, right = _rules(sheet, values, learned, tested)
        if right > floor + GOOD * (1 - floor):
            rows = [row for row in tested if rules.get(values[row]) == sheet.labels[row]]
            findings.append(sheet.finding("shortcuts", "warning", f"{name} alone tells the label of {right:.1%} of the rows (the most frequent class: {floor:.1%})",
                                          "a model will learn this instead of the meaning; is it there when the model is used?", rows, notes=[values[row] for row in rows[:200]],
                                          view=name, accuracy=right, floor=floor))  # fmt: skip
    if sheet.images:
        return findings
    written = [row for row in order if len(sheet.labels[row]) > 2 and f" {_fold_case(sheet.labels[row])} " in f" {sheet.plain[row]} "]
    others = _by_chance(sheet, order)
    if len(written) > 0.9 * len(order) and others < 0.3:
        findings.append(sheet.finding("shortcuts.written", "warning", f"the label stands in the text of {len(written) / len(order):.1%} of the rows",
                                      "take it out of the text: it will not be there when the model is used", written))  # fmt: skip
    return findings


def _of_texts(sheet: Sheet, learned: list[int]) -> dict[str, list[str]]:
    return {
        "its length": _bin_sizes([len(text) for text in sheet.texts], learned),
        "its first word": [text.split(" ", 1)[0] for text in sheet.plain],
        "its last word": [text.rsplit(" ", 1)[-1] for text in sheet.plain],
    }


def _of_images(sheet: Sheet, learned: list[int]) -> dict[str, list[str]]:
    values = [record.values for record in sheet.records]
    bright = [sum(bytes.fromhex(value[THUMBNAIL])) for value in values]
    return {
        "its size": [f"{value[WIDTH]} × {value[HEIGHT]}" for value in values],
        "its width": _bin_sizes([value[WIDTH] for value in values], learned),
        "its kind of file and colour": [
            f"{text.rsplit('.', 1)[-1].lower()} {value[MODE]}" for text, value in zip(sheet.texts, values, strict=True)
        ],
        "its brightness": _bin_sizes(bright, learned),
    }


def _bin_sizes(sizes: Sequence[float], learned: list[int]) -> list[str]:
    """Which twentieth of the learned rows a size falls into."""
    edges = np.quantile([sizes[row] for row in learned], np.linspace(0, 1, 21)[1:-1])
    return [str(index) for index in np.searchsorted(edges, sizes)]


def _rules(sheet: Sheet, values: Sequence[str], learned: list[int], tested: list[int]) -> tuple[dict[str, str], float]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in learned:
        counts[values[row]][sheet.labels[row]] += 1
    rules = {value: votes.most_common(1)[0][0] for value, votes in counts.items()}
    return rules, sum(rules.get(values[row]) == sheet.labels[row] for row in tested) / len(tested)


def _fold_case(label: str) -> str:
    return label.casefold().strip()


def _by_chance(sheet: Sheet, order: list[int]) -> float:
    """How often another row's label stands in the text."""
    other = order[1:] + order[:1]
    pairs = [(row, sheet.labels[two]) for row, two in zip(order, other, strict=True) if sheet.labels[two] != sheet.labels[row]]
    return sum(f" {_fold_case(label)} " in f" {sheet.plain[row]} " for row, label in pairs) / max(len(pairs), 1)
