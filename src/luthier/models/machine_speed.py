"""How many floating-point operations a second training has on this machine, found by a short look."""

from __future__ import annotations

import functools
import time
from statistics import median

import torch

from luthier.core.threads import SAMPLE, allowed_processors, free_processors

ROWS, INSIDE, COLUMNS = 1024, 256, 1024
"""Of the product that is timed: a step's tokens, and a narrow network's layers."""
SECONDS, FEWEST = 0.1, 5
"""Of products for each precision, and how many there are at least."""
EFFICIENCY = 0.25
"""Share of the product's speed that a training step of a small network reaches: 0.30 of one core in bf16, a network of 0.9 million weights, measured beside other programs."""

TRAINING_SHARE = 0.5
"""Of a budget the share that training gets, about: the rest reads, proves, judges and reports."""


def operations_in(seconds: float) -> float:
    """Floating-point operations of training that a budget carries, about.

    Args:
        seconds: for everything.
    """
    return TRAINING_SHARE * seconds * training_operations_per_second()


@functools.cache
def training_operations_per_second() -> float:
    """Floating-point operations a second that training a small network has here, about: looked for once in a process, in a third of a second.

    One thread's products are timed, in bf16 and in fp32, of which the faster counts, and multiplied by the processors that are idle: several threads beside another program would measure their waiting for each other.
    """
    if torch.cuda.is_available():
        return EFFICIENCY * max(_product_speed(dtype, "cuda") for dtype in (torch.float32, torch.bfloat16))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fastest = max(_product_speed(dtype, "cpu") for dtype in (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    idle = free_processors(SAMPLE, times=1)
    return EFFICIENCY * fastest * max(1.0, allowed_processors() if idle is None else idle)


def _product_speed(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of matrix products; the median of some.

    Args:
        dtype: of the numbers.
        device: cpu or cuda.
    """
    left, right = torch.ones(ROWS, INSIDE, dtype=dtype, device=device), torch.ones(INSIDE, COLUMNS, dtype=dtype, device=device)
    spent: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(spent) <= FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # a device that computes by itself is waited for
        spent.append(time.perf_counter() - began)
    return 2 * ROWS * INSIDE * COLUMNS / median(spent[1:])  # the first prepares
