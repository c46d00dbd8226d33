"""Numbers to be learned that lie far from all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet

FAR = 1_000.0
"""Interquartile ranges from the median; no usual distribution reaches so far."""
HOPELESS = 1_000_000.0
"""The same: one such number decides the mean and the spread, and nothing is learned of the others."""


def check(sheet: Sheet) -> list[Finding]:
    """Rows whose number is far from all others: a slip, a price in cents, a 99999 for "not known"."""
    if sheet.kind.learns != "number":
        return []
    numbers = [float(label) for label in sheet.labels]
    far = find_far(numbers, numbers, FAR)
    if not far:
        return []
    return [sheet.finding("numbers", "warning", several(len(far), "row", f"hold a number more than {FAR:,.0f} interquartile ranges from the median ({np.median(numbers):g})"),
                          "correct them or take them out: squared errors make such a row count more than thousands of others", far,
                          notes=[f"{numbers[row]:g}" for row in far], median=float(np.median(numbers)))]  # fmt: skip


def find_far(numbers: Sequence[float], known: Sequence[float], times: float) -> list[int]:
    """The places of numbers that are so many interquartile ranges from the median, the farthest first.

    Args:
        numbers: to be judged, finite.
        known: whose median and quartiles count. Where half of them are the same, the middle nine tenths take the place of the quartiles; where these
            are the same too, nothing is far.
        times: interquartile ranges.
    """
    if not len(known):
        return []
    low, first, median, third, high = (float(value) for value in np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95]))
    spread = third - first or high - low
    if not spread:
        return []
    distance = {index: abs(number / spread - median / spread) for index, number in enumerate(numbers)}
    return sorted((index for index in distance if distance[index] > times), key=lambda index: -distance[index])
