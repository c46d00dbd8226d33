"""Split rows into train, validation and test; near-duplicates and groups stay in one part."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from datetime import datetime
from typing import Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.types import Record
from luthier.core.words import plural
from luthier.data.row_reader import RowReader
from luthier.data.spec import Data
from luthier.data.split import PARTS, join_groups, split, split_by_time

LARGEST = 0.1
"""Share of the rows that one cluster of near-duplicates may hold and still be kept together."""
FEWEST_NORMAL = 10
"""Training rows of the class that is normal."""


def split_groups(
    parts: dict[str, list[Record]], spec: Data, reader: RowReader, known: dict[tuple[str, int], int], findings: list[Finding]
) -> dict[Any, Any]:
    """What keeps the rows that are not sealed in one part or fold with others: near-duplicates, and the group that was asked for."""
    rows = [record for part in parts if part != "test" for record in parts[part]]
    keys: list[Any] = [known[record.source, record.row] for record in rows]
    if spec.group:
        groups = [str(record.values.get(spec.group) or "").strip() for record in rows]
        keys = join_groups(keys, [group or index for index, group in enumerate(groups)])  # a row without a group stands for itself
    large = {key: size for key, size in Counter(keys).items() if size > max(20, LARGEST * len(rows))}
    if large and not spec.group:
        keys = [f"same {reader.identity(record, spec)}" if keys[row] in large else keys[row] for row, record in enumerate(rows)]
        if len(parts) < 3 and not spec.time:
            findings.append(Finding(check="split.template", severity="note", claim=f"{sum(large.values()):,} rows are near-duplicates of each other in {plural(len(large), 'cluster')} (a template?): only equal texts among them are kept in one part",
                                    evidence={"rows": sum(large.values()), "clusters": len(large)}))  # fmt: skip
    return {(record.source, record.row): key for record, key in zip(rows, keys, strict=True)}


def split_rows(parts: dict[str, list[Record]], spec: Data, reader: RowReader, together: dict[Any, Any]) -> dict[str, list[Record]]:
    """Train, validation and test; parts that are given stay as they are.

    Args:
        parts: part → rows, as given.
        spec: shares, seed, group and time.
        reader: says which strata the parts should have in proportion.
        together: (file, line) → what keeps the row in one part with others.

    Raises:
        DataError: the rows are too few for three parts, or a moment cannot be read.
    """
    if len(parts) == 3:
        return {part: parts[part] for part in PARTS}
    rows = parts["train"]
    shares = {"validation": spec.validation_share, "test": spec.test_share}
    for part in set(parts) - {"train"}:
        shares[part] = 0.0
    if spec.time:
        chosen = split_by_time([_moment(record, spec.time) for record in rows], shares)
    else:
        keys = [together[record.source, record.row] for record in rows]
        strata = [reader.row_view(record, spec).stratum for record in rows]
        try:
            chosen = split(keys, strata, shares, spec.split_seed)
        except DataError:
            if not spec.group:
                raise
            raise DataError(
                f"{spec.path}: rows of the same {spec.group} stay together, and {len(set(keys)):,} such groups are too few or too large for three parts",
                "choose a column with more values for data.group, or leave it out",
            ) from None
    return {part: parts[part] if part != "train" and part in parts else [rows[row] for row in chosen[part]] for part in PARTS}


def keep_normal(records: dict[str, list[Record]], spec: Data) -> list[Finding]:
    """Where one class is learned alone, take the rows of all others out of the training rows; what was done, for a person.

    Args:
        records: part → rows; changed in place.
        spec: with `normal` and the target filled in.

    Raises:
        DataError: too few rows are left to learn from.
    """
    if not spec.normal:
        return []
    every = records["train"]
    records["train"] = [record for record in every if str(record.values.get(spec.target or "")) == spec.normal]
    left = len(records["train"])
    if left < FEWEST_NORMAL:
        raise DataError(
            f"{spec.path}: {plural(left, 'training row')} of the class {spec.normal!r} are too few to learn what is normal (at least {FEWEST_NORMAL})",
            "give more of them, or name another class with --set data.normal=CLASS",
        )
    if left == len(every):
        return []
    claim = f"the {left:,} training rows of the class {spec.normal!r} alone are learned from; {plural(len(every) - left, 'training row')} of other classes are not used"
    return [Finding(check="split.normal", severity="note", claim=claim, remedy="learn from all rows with --set data.normal=",
                    evidence={"normal": left, "others": len(every) - left})]  # fmt: skip


def _moment(record: Record, column: str) -> float:
    value = record.values.get(column)
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]
        if math.isfinite(number):
            return number
    try:
        return datetime.fromisoformat(str(value).strip().replace("Z", "+00:00")).replace(tzinfo=None).timestamp()
    except ValueError:
        raise DataError(
            f"{record.source}, line {record.row}: {column} is {value!r}, neither a number nor a date",
            "write dates as 2026-11-21 or 2026-11-21T08:30:00",
        ) from None
