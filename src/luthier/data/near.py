"""Texts that say nearly the same: MinHash finds candidates, the exact Jaccard index decides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from luthier.core.randomness import mix

SHINGLE = 5
BANDS, ROWS_A_BAND = 32, 4
"""Two texts whose Jaccard index is 0.6 meet in some band with probability 0.988; at 0.7 with 0.9998, at 0.5 with 0.87."""
THRESHOLD = 0.6
CHUNK = 1 << 17
"""Characters whose shingles exist at once."""
CROWD = 24
"""In a bucket of more texts than this, each is compared with its neighbours and the first alone."""

_GAPS = re.compile(r"[\W_]+")


def normal(text: str) -> str:
    """The text without what copies differ in: case, spaces, punctuation, composed or decomposed accents."""
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip() or text.strip()


def shingles(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Hashes of all runs of five characters, for a chunk of texts at a time.

    Args:
        texts: normal.

    Yields:
        the number of the chunk's first text, the hashes of its texts end to end (uint32), and where each text's begin
    """
    start = 0
    while start < len(texts):
        stop, held = start, 0
        while stop < len(texts) and (held == 0 or held + len(texts[stop]) < CHUNK):
            held += len(texts[stop]) + SHINGLE
            stop += 1
        # a short text is made long enough, so that each has a run
        chunk = [text.ljust(SHINGLE, "\0") for text in texts[start:stop]]
        codes = np.frombuffer("".join(chunk).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        hashes = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint32)
        for place in range(SHINGLE):
            hashes = (hashes ^ codes[place : len(codes) - SHINGLE + 1 + place]) * np.uint32(0x01000193)
        hashes ^= hashes >> np.uint32(15)
        hashes *= np.uint32(0x2C1B3C6D)
        hashes ^= hashes >> np.uint32(13)
        lengths = np.array([len(text) for text in chunk])
        begins = np.cumsum(lengths) - lengths
        inside = np.ones(len(codes), dtype=bool)
        for place in range(1, SHINGLE):
            inside[begins[1:] - place] = False  # a run does not reach into the next text
        kept = lengths - SHINGLE + 1
        yield start, hashes[inside[: len(hashes)]], np.cumsum(kept) - kept
        start = stop


def bands(texts: Sequence[str]) -> np.ndarray:
    """A number for each band of each text's MinHash signature, # (BANDS, texts) uint32

    Source: Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4.
    """
    found = np.empty((BANDS, len(texts)), dtype=np.uint32)
    multipliers = (mix("minhash", "times", np.arange(BANDS * ROWS_A_BAND)).astype(np.uint32)) | np.uint32(1)
    added = mix("minhash", "plus", np.arange(BANDS * ROWS_A_BAND)).astype(np.uint32)
    for start, hashes, begins in shingles(texts):
        part = slice(start, start + len(begins))
        for band in range(BANDS):
            value = np.zeros(len(begins), dtype=np.uint32)
            for number in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND):
                permuted = hashes * multipliers[number]
                permuted += added[number]
                lowest = np.minimum.reduceat(permuted, begins)
                value = (value ^ lowest) * np.uint32(0x9E3779B1)
                value ^= value >> np.uint32(15)
            found[band, part] = value
    return found


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """The share of two sets' shingles that they have in common; each sorted and without repeats."""
    both = len(np.intersect1d(one, two, assume_unique=True))
    return both / (len(one) + len(two) - both)


def clusters(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """Group texts whose shingles overlap by the threshold or more, directly or through others.

    Args:
        texts: as they are; they are made normal here.
        threshold: of the Jaccard index, 0 < threshold ≤ 1.

    Returns:
        for each text the number of its cluster's first text; its own where it stands alone
    """
    plain = [normal(text) for text in texts]
    first: dict[str, int] = {}
    distinct = [number for number, text in enumerate(plain) if first.setdefault(text, number) == number]
    parent = list(range(len(distinct)))
    sets: dict[int, np.ndarray] = {}

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def shingled(number: int) -> np.ndarray:
        if number not in sets:
            if len(sets) > 50_000:
                sets.clear()
            sets[number] = np.unique(next(shingles([plain[distinct[number]]]))[1])
        return sets[number]

    signatures = bands([plain[number] for number in distinct]) if distinct else np.empty((0, 0))
    tried: set[int] = set()
    for band in signatures:
        order = np.argsort(band, kind="stable")
        same = band[order][1:] == band[order][:-1]
        edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            members = order[begin : end + 1].tolist()
            for one, two in _pairs(members):
                pair = one * len(distinct) + two
                high, low = root(one), root(two)
                if high == low or pair in tried:
                    continue
                if len(tried) < 5_000_000:
                    tried.add(pair)
                if jaccard(shingled(one), shingled(two)) >= threshold:
                    parent[max(high, low)] = min(high, low)
    place = {text: number for number, text in enumerate(plain[row] for row in distinct)}
    return [distinct[root(place[text])] for text in plain]


def _pairs(members: list[int]) -> Iterator[tuple[int, int]]:
    if len(members) <= CROWD:
        yield from ((one, two) for position, one in enumerate(members) for two in members[position + 1 :])
    else:
        for before, number in pairwise(members):
            yield before, number
            if before != members[0]:
                yield members[0], number
