"""Near-duplicate images: scaled, compressed or brightened copies, by perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
"""Images in a bucket, above which not every pair is looked at."""
AT_ONCE = 4096
"""Pairs of pictures that are compared at once."""


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
    pairs = _close_hashes(bits, even)
    for start in range(0, len(pairs), AT_ONCE):  # as many pictures at once as fit into memory
        some = pairs[start : start + AT_ONCE]
        alike = np.abs(even[some[:, 0]] - even[some[:, 1]]).mean((1, 2)) <= GREY
        for one, two in some[alike].tolist():
            together.join(one, two)
    return [together.find(index) for index in range(len(raw))]


def _close_hashes(bits: np.ndarray, even: np.ndarray) -> np.ndarray:
    """The pairs of images that share a band of their hashes, and differ in few bits of the whole, # (pairs, 2)"""
    words = np.packbits(np.pad(bits, ((0, 0), (0, -BITS % 64))), axis=1).view(np.uint64)  # (images, 4)
    coarse = even.reshape(len(even), 4, 8, 4, 8).mean((2, 4)).reshape(len(even), 16)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for band in np.array_split(np.arange(BITS), BANDS):
        keys = bits[:, band] @ (1 << np.arange(len(band)))
        for pairs in _pairs_in_buckets(keys, coarse):
            apart = np.bitwise_count(words[pairs[:, 0]] ^ words[pairs[:, 1]]).sum(1)
            found.append(pairs[apart <= APART])
    return np.unique(np.concatenate(found), axis=0)


def _pairs_in_buckets(keys: np.ndarray, coarse: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs with one key; where many images have it, those that stand together when they are ordered by a few coarse values, # (pairs, 2)

    Args:
        keys: one an image, # (images,)
        coarse: its picture in sixteen values, # (images, 16)
    """
    order = np.argsort(keys, kind="stable")
    _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    for size in np.unique(sizes[(sizes > 1) & (sizes <= CROWD)]):
        members = order[starts[sizes == size][:, None] + np.arange(size)]  # (buckets, size)
        one, two = np.triu_indices(size, 1)
        yield np.stack((members[:, one].ravel(), members[:, two].ravel()), 1)
    crowded = np.repeat(sizes > CROWD, sizes)
    many = np.sort(order[crowded])
    for column in (0, 5, 10, 15):
        beside = many[np.lexsort((coarse[many, column], keys[many]))]
        pairs = np.stack((beside[:-1], beside[1:]), 1)
        yield np.sort(pairs[keys[beside[:-1]] == keys[beside[1:]]], axis=1)
