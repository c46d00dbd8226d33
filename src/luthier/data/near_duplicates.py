"""Near-duplicate texts: MinHash finds candidates, the exact Jaccard index decides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from luthier.core.randomness import mix
from luthier.data.groups import Groups

SHINGLE = 5
BANDS, ROWS_A_BAND = 32, 4
"""Two texts whose Jaccard index is 0.6 meet in some band with probability 0.988; at 0.7 with 0.9998, at 0.5 with 0.87."""
THRESHOLD = 0.6
MARGIN = 0.15
"""An index of 0.6 is estimated from 128 minima with a standard deviation of 0.043: this is more than three of them."""
KEPT_SHINGLES = 1 << 27
"""Shingles that are kept in memory; beyond, those of two texts are made again when they are compared."""
CHUNK = 1 << 17
"""Characters whose shingles exist at once."""
CROWD = 24
"""In a bucket of more texts than this, each is compared with its neighbours and the first alone."""

_GAPS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
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
        stop, size = start, 0
        while stop < len(texts) and (size == 0 or size + len(texts[stop]) < CHUNK):
            size += len(texts[stop]) + SHINGLE
            stop += 1
        # a short text is made long enough, so that each has a run
        chunk = [text.ljust(SHINGLE, "\0") for text in texts[start:stop]]
        codes = np.frombuffer("".join(chunk).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        hashes = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint32)
        for offset in range(SHINGLE):
            hashes = (hashes ^ codes[offset : len(codes) - SHINGLE + 1 + offset]) * np.uint32(0x01000193)
        hashes ^= hashes >> np.uint32(15)
        hashes *= np.uint32(0x2C1B3C6D)
        hashes ^= hashes >> np.uint32(13)
        lengths = np.array([len(text) for text in chunk])
        begins = np.cumsum(lengths) - lengths
        inside = np.ones(len(codes), dtype=bool)
        for offset in range(1, SHINGLE):
            inside[begins[1:] - offset] = False  # a run does not reach into the next text
        counts = lengths - SHINGLE + 1
        yield start, hashes[inside[: len(hashes)]], np.cumsum(counts) - counts
        start = stop


@dataclass(frozen=True)
class Sketch:
    """What is kept of many texts to find those that are alike.

    Args:
        bands: a number for each band of each text's MinHash signature, # (BANDS, texts) uint32
        signature: the low byte of each minimum; the share of equal bytes is about the Jaccard index, # (texts, BANDS × ROWS_A_BAND) uint8
        sizes: different shingles of each text, # (texts,)
        hashes: the different shingles of all texts end to end, sorted within each; None where they would fill the memory.
        begins: where each text's begin, # (texts + 1,)
    """

    bands: np.ndarray
    signature: np.ndarray
    sizes: np.ndarray
    hashes: np.ndarray | None
    begins: np.ndarray


def sketch(texts: Sequence[str]) -> Sketch:
    """Read all texts once.

    Source: Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4; Li & König 2010 (b-bit signatures).
    """
    count = BANDS * ROWS_A_BAND
    bands = np.empty((BANDS, len(texts)), dtype=np.uint32)
    signature = np.empty((len(texts), count), dtype=np.uint8)
    sizes = np.empty(len(texts), dtype=np.int64)
    chunks: list[np.ndarray] | None = [] if sum(map(len, texts)) <= KEPT_SHINGLES else None
    multipliers = (mix("minhash", "times", np.arange(count)).astype(np.uint32)) | np.uint32(1)
    added = mix("minhash", "plus", np.arange(count)).astype(np.uint32)
    for start, hashes, begins in shingles(texts):
        part = slice(start, start + len(begins))
        for band in range(BANDS):
            value = np.zeros(len(begins), dtype=np.uint32)
            for index in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND):
                permuted = hashes * multipliers[index]
                permuted += added[index]
                lowest = np.minimum.reduceat(permuted, begins)
                signature[part, index] = lowest.astype(np.uint8)
                value = (value ^ lowest) * np.uint32(0x9E3779B1)
                value ^= value >> np.uint32(15)
            bands[band, part] = value
        lengths = np.diff(begins, append=len(hashes))
        keyed = np.repeat(np.arange(len(begins), dtype=np.uint64) << np.uint64(32), lengths) | hashes
        keyed.sort()
        keyed = keyed[np.concatenate(([True], keyed[1:] != keyed[:-1]))]
        sizes[part] = np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=len(begins))
        if chunks is not None:
            chunks.append(keyed.astype(np.uint32))
    whole = None if chunks is None else np.concatenate(chunks) if chunks else np.empty(0, np.uint32)
    return Sketch(bands, signature, sizes, whole, np.concatenate(([0], np.cumsum(sizes))))


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """The share of two sets' shingles that they have in common; each sorted and without repeats."""
    if len(one) > len(two):
        one, two = two, one
    indices = np.minimum(two.searchsorted(one), len(two) - 1)
    both = int((two[indices] == one).sum())
    return both / (len(one) + len(two) - both)


def clusters(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """Group texts whose shingles overlap by the threshold or more, directly or through others.

    Args:
        texts: as they are; they are made normal here.
        threshold: of the Jaccard index, 0 < threshold ≤ 1.

    Returns:
        for each text the number of its cluster's first text; its own where it stands alone
    """
    plain = [normalise(text) for text in texts]
    first: dict[str, int] = {}
    distinct = [index for index, text in enumerate(plain) if first.setdefault(text, index) == index]
    together = Groups(len(distinct))
    summary = sketch([plain[index] for index in distinct])

    def shingles_of(index: int) -> np.ndarray:
        if summary.hashes is not None:
            return summary.hashes[summary.begins[index] : summary.begins[index + 1]]
        return np.unique(next(shingles([plain[distinct[index]]]))[1])

    tried: set[int] = set()
    for band in summary.bands:
        for one, two in _likely_pairs(summary, *_pairs_in_buckets(band), threshold):
            pair = one * len(distinct) + two
            if pair in tried or together.find(one) == together.find(two):
                continue
            if len(tried) < 5_000_000:
                tried.add(pair)
            if jaccard(shingles_of(one), shingles_of(two)) >= threshold:
                together.join(one, two)
    indices = {plain[row]: index for index, row in enumerate(distinct)}
    return [distinct[together.find(indices[text])] for text in plain]


def _pairs_in_buckets(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of texts that share a bucket of a band, # (pairs,) each"""
    order = np.argsort(band, kind="stable")
    same = band[order][1:] == band[order][:-1]
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    alone = ends - begins == 1  # most buckets hold two
    more = [pair for begin, end in zip(begins[~alone], ends[~alone], strict=True) for pair in _pairs(order[begin : end + 1].tolist())]
    rest = np.array(more, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([order[begins[alone]], rest[:, 0]]), np.concatenate([order[ends[alone]], rest[:, 1]])


def _likely_pairs(summary: Sketch, one: np.ndarray, two: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Those of the pairs that may reach the threshold: by their sizes, and by what their signatures have in common."""
    fits = np.minimum(summary.sizes[one], summary.sizes[two]) >= threshold * np.maximum(summary.sizes[one], summary.sizes[two])
    one, two = one[fits], two[fits]
    for start in range(0, len(one), 1 << 16):
        few, others = one[start : start + (1 << 16)], two[start : start + (1 << 16)]
        alike = (summary.signature[few] == summary.signature[others]).mean(1) >= threshold - MARGIN
        yield from zip(few[alike].tolist(), others[alike].tolist(), strict=True)


def _pairs(members: list[int]) -> Iterator[tuple[int, int]]:
    if len(members) <= CROWD:
        yield from ((one, two) for position, one in enumerate(members) for two in members[position + 1 :])
    else:
        for before, member in pairwise(members):
            yield before, member
            if before != members[0]:
                yield members[0], member
