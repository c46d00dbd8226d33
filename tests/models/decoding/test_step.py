"""The memory of keys and values."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from luthier.models.decoding.step import map_zeros

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell how much memory a process holds")
def test_zeros_take_memory_when_they_are_first_used_and_give_it_back() -> None:
    before = resident()
    zeros = map_zeros(64, 2, 1 << 19)
    assert (zeros.shape, zeros.dtype) == ((64, 2, 1 << 19), torch.float32)
    assert resident() - before < 64 << 20  # of 256 MiB
    zeros[3:35] = 1.0
    used = resident()
    assert used - before > 120 << 20
    assert not zeros[35:37].any() and zeros[34].all()
    del zeros
    assert used - resident() > 100 << 20
