"""Near-duplicates: the same clusters as a trusted library, and nothing lost that a person would call a copy."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
from datasketch import MinHash, MinHashLSH

from luthier.data.near_duplicates import SHINGLE, THRESHOLD, clusters, jaccard, normalise, shingles

FEEDBACK = Path(__file__).parents[2] / "examples" / "feedback" / "feedback.csv"


def sentences() -> list[str]:
    with FEEDBACK.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def edit(text: str, words: list[str], draw: random.Random) -> str:
    """One word in ten replaced by another."""
    parts = text.split()
    for place in draw.sample(range(len(parts)), len(parts) // 10):
        parts[place] = draw.choice(words)
    return " ".join(parts)


def test_copies_that_differ_in_case_spaces_punctuation_or_accents_composition_are_one() -> None:
    found = clusters(
        ["Call me, please!", "call  me please", "CALL ME – PLEASE", "don't call me, I am asleep", "cafe\u0301 nero", "café nero"]
    )
    assert found == [0, 0, 0, 3, 4, 4]


def test_a_texts_shingles_are_those_of_its_runs_of_five_characters() -> None:
    texts = ["abcdefg", "xyz", "abcde", "bcdefg"]
    _, hashes, begins = next(shingles(texts))
    sizes = np.diff([*begins, len(hashes)])
    assert sizes.tolist() == [len(text) - SHINGLE + 1 if len(text) >= SHINGLE else 1 for text in texts]
    own = [set(hashes[begin : begin + size].tolist()) for begin, size in zip(begins, sizes, strict=True)]
    assert own[2] < own[0]
    assert own[3] == own[0] - own[2]


def test_the_clusters_are_those_of_datasketch_with_exact_verification() -> None:
    texts = sentences()[:1200]
    draw = random.Random(0)
    words = [word for text in texts for word in text.split()]
    texts += [edit(text, words, draw) for text in draw.sample(texts, 150)]
    sets = [np.unique(next(shingles([normalise(text)]))[1]) for text in texts]
    index = MinHashLSH(threshold=0.4, num_perm=256)
    sketches = []
    for number, each in enumerate(sets):
        sketch = MinHash(num_perm=256)
        sketch.update_batch([int(value).to_bytes(4, "little") for value in each])
        sketches.append(sketch)
        index.insert(number, sketch)
    parent = list(range(len(texts)))

    def root(number: int) -> int:
        return number if parent[number] == number else root(parent[number])

    for number, sketch in enumerate(sketches):
        for other in sorted(index.query(sketch)):
            if other < number and jaccard(sets[number], sets[other]) >= THRESHOLD:
                high, low = root(number), root(other)
                parent[max(high, low)] = min(high, low)
    assert clusters(texts) == [root(number) for number in range(len(texts))]


def test_planted_copies_are_found_and_others_are_left_alone() -> None:
    texts = list(dict.fromkeys(sentences()))
    alone = clusters(texts, 0.45)
    texts = [text for number, text in enumerate(texts) if alone[number] == number]  # what is left has no near-duplicates
    draw = random.Random(1)
    words = [word for text in texts for word in text.split()]
    chosen = draw.sample(range(len(texts)), 300)
    changes = (lambda text: text, lambda text: text.upper().replace(" ", "  ") + " !!", lambda text: edit(text, words, draw))
    planted = [(row, changes[number % 3](texts[row])) for number, row in enumerate(chosen)]
    found = clusters([*texts, *(copy for _, copy in planted)])
    hits = sum(found[len(texts) + number] == found[row] for number, (row, _) in enumerate(planted))
    expected = set(chosen) | set(range(len(texts), len(found)))
    told = {row for row, first in enumerate(found) if found.count(first) > 1}
    assert hits / len(planted) >= 0.98
    assert len(told & expected) / len(told) >= 0.95
