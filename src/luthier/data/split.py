"""Which row is where: duplicates kept together, classes in proportion, the test rows sealed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from luthier.core.errors import DataError
from luthier.core.randomness import mix
from luthier.core.words import several
from luthier.data.groups import Groups

PARTS = ("train", "validation", "test")


def split(keys: Sequence[Hashable], strata: Sequence[Hashable], shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Divide rows into train, validation and test.

    Rows with equal keys (the same text) always land in the same part. Within each stratum (class) the parts
    get their share, so a rare class is in each of them when it has three distinct rows.

    Args:
        keys: what makes two rows duplicates, one a row.
        strata: the class of each row; a constant where there are none.
        shares: of validation and of test; train gets the rest.
        seed: another seed gives another split.

    Returns:
        Part → row numbers, ascending.

    Raises:
        DataError: there are too few rows to have all three parts.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    by_stratum: dict[Hashable, list[list[int]]] = defaultdict(list)
    for rows in groups.values():
        by_stratum[Counter(strata[row] for row in rows).most_common(1)[0][0]].append(rows)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for stratum, members in by_stratum.items():
        ranks = mix(seed, "split", str(stratum), np.array([rows[0] for rows in members]))
        ordered = [members[position] for position in np.argsort(ranks, kind="stable")]
        total = sum(len(rows) for rows in ordered)
        targets = {
            part: max(1, round(total * shares[part])) if len(ordered) >= 3 and shares[part] else 0 for part in ("test", "validation")
        }
        for rows in ordered:
            part = next(
                (name for name in ("test", "validation") if targets[name] >= len(rows) or (targets[name] > 0 and len(rows) == 1)), "train"
            )
            parts[part].extend(rows)
            if part != "train":
                targets[part] -= len(rows)
    needed = ["train", *(part for part in shares if shares[part])]
    if not all(parts[part] for part in needed):
        empty = ", ".join(part for part in needed if not parts[part])
        alike = f", {len(groups):,} where copies and near-duplicates count once" if len(groups) < len(keys) else ""
        raise DataError(
            f"{several(len(keys), 'row', 'are')} too few for a split{alike}: nothing would be left for {empty}",
            "give at least 30 different rows" + ("; is the right column read (--input)?" if alike else ""),
        )
    return {part: sorted(rows) for part, rows in parts.items()}


def folds(keys: Sequence[Hashable], strata: Sequence[Hashable], count: int, seed: int) -> list[list[int]]:
    """Divide rows into parts of about equal size, each class in proportion, rows with equal keys together.

    Args:
        keys: what makes two rows belong together, one a row.
        strata: the class of each row; a constant where there are none.
        count: of the folds.
        seed: another seed gives other folds.

    Returns:
        For each fold its row numbers, ascending.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    ranks = mix(seed, "folds", np.array([rows[0] for rows in groups.values()]))
    ordered = [rows for _, rows in sorted(zip(ranks.tolist(), groups.values(), strict=True), key=lambda pair: (-len(pair[1]), pair[0]))]
    class_counts = [Counter[Hashable]() for _ in range(count)]
    parts: list[list[int]] = [[] for _ in range(count)]
    for rows in ordered:
        own = Counter(strata[row] for row in rows)
        kind = own.most_common(1)[0][0]
        index = min(range(count), key=lambda fold: (class_counts[fold][kind], len(parts[fold]), fold))
        class_counts[index].update(own)
        parts[index].extend(rows)
    return [sorted(rows) for rows in parts]


def join_groups(one: Sequence[Hashable], two: Sequence[Hashable]) -> list[int]:
    """One number for rows that are together in either way, directly or through others."""
    together = Groups(len(one))
    for keys in (one, two):
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            together.join(first.setdefault(key, row), row)
    return [together.find(row) for row in range(len(one))]


def split_by_time(moments: Sequence[float], shares: dict[str, float]) -> dict[str, list[int]]:
    """Divide rows so that the newest are tested, those before them validate, and the oldest train; equal moments stay together.

    Args:
        moments: one a row.
        shares: of validation and of test; train gets the rest.

    Returns:
        Part → row numbers, ascending.

    Raises:
        DataError: the moments are too few to have all parts.
    """
    order = sorted(set(moments))
    counts = Counter(moments)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    part_of: dict[float, str] = {}
    total = 0
    for moment in reversed(order):
        ahead = total + counts[moment] / 2
        part_of[moment] = (
            "test"
            if ahead < shares["test"] * len(moments)
            else "validation"
            if ahead < (shares["test"] + shares["validation"]) * len(moments)
            else "train"
        )
        total += counts[moment]
    for row, moment in enumerate(moments):
        parts[part_of[moment]].append(row)
    empty = ", ".join(part for part in ("train", *(part for part in shares if shares[part])) if not parts[part])
    if empty:
        raise DataError(
            f"{len(order)} different moments are too few for a split by time: nothing would be left for {empty}",
            "give a finer column, or leave data.time out",
        )
    return parts
