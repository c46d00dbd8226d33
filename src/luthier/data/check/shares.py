"""Class shares that differ between the training, validation and test files that were given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet

LEVEL = 0.001
"""Probability that chance alone makes any class of any two parts a finding."""
LEAST_POINTS, LEAST_RATIO = 0.01, 1.33
"""A class is named when its shares differ by so much, and one is so many times the other: less hardly moves a score."""
LEAST_MOVED, MANY_CLASSES = 0.1, 10
"""So many classes that differ a little each are a finding when so large a share of the rows would have to change its class, beyond chance."""
SHOWN = 3


def check(sheet: Sheet) -> list[Finding]:
    """Class shares of given parts, or of parts divided by time, that differ by more than chance."""
    if not sheet.classes or not sheet.given:
        return []
    counts = {part: Counter(label for label, own in zip(sheet.labels, sheet.parts, strict=True) if own == part) for part in ("validation", "test", "train")}  # fmt: skip
    counts = {part: counter for part, counter in counts.items() if counter}
    classes = sorted(set(sheet.labels))
    pairs = list(combinations(counts, 2))
    limit = NormalDist().inv_cdf(1 - LEVEL / (2 * max(1, len(classes) * len(pairs))))
    differing = {pair: _find_different(counts[pair[0]], counts[pair[1]], classes, limit) for pair in pairs}
    candidates = [("validation", "test"), *(pair for pair in pairs if "train" in pair)]
    pair = next((pair for pair in candidates if differing.get(pair)), None)
    if pair is None:
        return []
    worst = differing[pair]
    text = "; ".join(f"{label!r}: " + ", ".join(f"{_share(counts[part], label):.1%} of {part}" for part in ("train", "validation", "test") if part in counts) for label in worst[:SHOWN])  # fmt: skip
    rows = [row for row in range(len(sheet)) if sheet.labels[row] in set(worst) and sheet.parts[row] in pair]
    shares = {label: {part: _share(counter, label) for part, counter in counts.items()} for label in worst[:100]}
    if pair == ("validation", "test"):
        claim = f"validation and test rows have other class shares ({text}): a validation score will not predict the test score"
        remedy = "compare macro-F1 and the scores of each class, not accuracy; or take validation rows as the test rows were taken"
    else:
        other = next(part for part in pair if part != "train")
        claim = f"training and {other} rows have other class shares ({text}): the model learns to expect those of the training rows"
        remedy = (
            "take training rows as the others were taken, or try --set objective.class_weights=balanced; macro-F1 says more than accuracy"
        )
    return [sheet.finding("shares", "warning", claim, remedy, rows, shares=shares, parts=list(pair))]


def _share(counts: Mapping[str, int], label: str) -> float:
    return counts.get(label, 0) / sum(counts.values())


def _find_different(one: Mapping[str, int], two: Mapping[str, int], classes: Sequence[str], limit: float) -> list[str]:
    """The classes whose shares differ beyond chance and by enough to matter, the worst first."""
    sizes = sum(one.values()), sum(two.values())
    gaps = {label: abs(_share(one, label) - _share(two, label)) for label in classes}
    spread = {label: _standard_deviation(one.get(label, 0) + two.get(label, 0), sizes) for label in classes}
    beyond = [label for label in classes if gaps[label] > limit * spread[label] and _matters(_share(one, label), _share(two, label))]
    chance = math.sqrt(2 / math.pi)
    moved = (sum(gaps.values()) - chance * sum(spread.values())) / 2
    noise = math.sqrt((1 - 2 / math.pi) * sum(value**2 for value in spread.values()) / 2)  # √2 of what independent classes would give
    if not beyond and len(classes) >= MANY_CLASSES and moved > max(LEAST_MOVED, limit * noise):
        beyond = [label for label in classes if gaps[label] > 0]
    return sorted(beyond, key=lambda label: (-gaps[label], label))


def _standard_deviation(count: int, sizes: tuple[int, int]) -> float:
    """The standard deviation of the difference of two shares that are equal in truth (the pooled two-proportion test)."""
    share = count / sum(sizes)
    return math.sqrt(share * (1 - share) * (1 / sizes[0] + 1 / sizes[1]))


def _matters(one: float, two: float) -> bool:
    low, high = sorted((one, two))
    return high - low >= LEAST_POINTS and high >= LEAST_RATIO * low
