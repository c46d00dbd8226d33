"""Rows unlike all others, as a model sees them."""

from __future__ import annotations

import numpy as np

from luthier.core.finding import Finding
from luthier.core.words import plural
from luthier.data.check.sheet import Sheet

NEIGHBOURS = 5
FAR = 5.0
"""In robust standard deviations (1.4826 × the median absolute deviation) above the median distance."""


def check(sheet: Sheet) -> list[Finding]:
    """Rows whose nearest neighbours are far: another language, another topic, broken text."""
    if sheet.encode is None or len(sheet.sample) < 50:
        return []
    distance = neighbour_distances(sheet.features)
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    far = np.flatnonzero(distance > middle + FAR * max(spread, 1e-6))
    far = far[np.argsort(-distance[far], kind="stable")]
    if not len(far):
        return []
    rows = [sheet.sample[index] for index in far]
    return [sheet.finding("outliers", "note", f"{len(rows):,} of {plural(len(sheet.sample), 'row')} examined {'is' if len(rows) == 1 else 'are'} unlike all others", "read them: are they meant to be here?",
                          rows, notes=[f"distance {distance[index]:.2f}" for index in far], looked_at=len(sheet.sample), of=len(sheet), median=float(middle))]  # fmt: skip


def neighbour_distances(features: np.ndarray) -> np.ndarray:
    """The mean cosine distance to the five nearest others; copies of a row count once. # (rows,)"""
    distances = np.empty(len(features))
    for start in range(0, len(features), 1024):
        near = 1 - features[start : start + 1024] @ features.T
        near[near < 1e-4] = 2.0  # itself, and its copies
        distances[start : start + 1024] = np.partition(near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS].mean(1)
    return distances
