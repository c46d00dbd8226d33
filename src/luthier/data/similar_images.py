"""Near-duplicate images: scaled, compressed or brightened copies, by perceptual hashes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from luthier.data.groups import Groups

SIDE = 32
BITS = 240
BANDS = 20
"""Two hashes that differ in fewer bits than there are bands agree in one of them."""
APART = 16
"""Bits in which the hashes of copies may differ."""
GREY = 8.0
"""Steps of grey, of 256, by which the small pictures of copies may differ on average once brightness and contrast are evened out."""
CROWD = 24


def hashes(pictures: np.ndarray) -> np.ndarray:
    """Whether each sixteenth of a row is brighter than its left neighbour, # (images, 240) of bool

    Args:
        pictures: grey, # (images, 32, 32)

    Source: Krawetz 2013, "Kind of like that" (difference hash).
    """
    small = pictures.reshape(len(pictures), 16, 2, 16, 2).mean((2, 4))
    return (small[:, :, 1:] > small[:, :, :-1]).reshape(len(pictures), BITS)


def clusters(thumbnails: Sequence[str]) -> list[int]:
    """Group images that look nearly the same, directly or through others.

    Args:
        thumbnails: 32 × 32 grey bytes in hex, one an image.

    Returns:
        for each image the number of its cluster's first image; its own where it stands alone
    """
    raw = np.frombuffer(bytes.fromhex("".join(thumbnails)), dtype=np.uint8).reshape(-1, SIDE, SIDE).astype(np.float32)
    bits = hashes(raw)
    even = (raw - raw.mean((1, 2), keepdims=True)) / raw.std((1, 2), keepdims=True).clip(min=1.0) * 64.0
    together = Groups(len(raw))
    for band in np.array_split(np.arange(BITS), BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, key in enumerate(np.packbits(bits[:, band], axis=1)):
            buckets[key.tobytes()].append(index)
        for members in buckets.values():
            pairs = combinations(members, 2) if len(members) <= CROWD else _neighbours(members, even)
            for one, two in pairs:
                apart = together.find(one) != together.find(two)
                if apart and int((bits[one] != bits[two]).sum()) <= APART and float(np.abs(even[one] - even[two]).mean()) <= GREY:
                    together.join(one, two)
    return [together.find(index) for index in range(len(raw))]


def _neighbours(members: list[int], even: np.ndarray) -> list[tuple[int, int]]:
    """In a crowded bucket, pairs of images that stand together when they are ordered by a few coarse values."""
    coarse = even[members].reshape(len(members), 4, 8, 4, 8).mean((2, 4)).reshape(len(members), 16)
    pairs = set()
    for column in (0, 5, 10, 15):
        order = np.argsort(coarse[:, column], kind="stable")
        pairs |= {(members[min(one, two)], members[max(one, two)]) for one, two in pairwise(order.tolist())}
    return sorted(pairs)
