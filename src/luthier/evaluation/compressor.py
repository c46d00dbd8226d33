"""A general compressor as a language model: how many bits xz needs for a text once it has read the training texts."""

from __future__ import annotations

import lzma
from collections.abc import Sequence

import numpy as np

PRIMED = 16 << 20
"""Bytes of training text that it has read before, the last ones: xz finds again what lies in its dictionary, which holds as much."""


def xz_bits(texts: Sequence[bytes], before: bytes) -> np.ndarray:
    """Bits that each text takes behind what was read before.

    All texts are compressed together, behind the training text, and what that alone takes is subtracted; each text has its share by what it takes alone.

    Args:
        texts: held-out documents.
        before: training text; the last `PRIMED` bytes of it are read.

    Returns:
        # (texts,)
    """
    before = before[-PRIMED:]
    alone = np.array([_size(text) for text in texts], dtype=np.float64)
    together = _size(before + b"".join(texts)) - _size(before)
    return 8 * together * alone / alone.sum()


def _size(content: bytes) -> int:
    """Bytes of the content, compressed, without header and check."""
    size = max(1 << 16, min(2 * PRIMED, 1 << max(len(content) - 1, 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": size}]
    return len(lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters))
