"""Rows that belong together: answers that stand in several rows, and columns whose rows should stay in one part."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet

MANY = 0.05
"""Share of the rows that have another row's answer from which on it is said."""
LONG = 12
"""Characters of an answer that does not repeat by its nature, as yes and no do."""
FEWEST_GROUPS, LARGEST_GROUP, MEAN_ROWS = 8, 0.3, 2.0
"""Groups that a column must have, the share of the rows that one may hold, and the rows that one has in the mean: fewer or larger cannot be split."""
PURE = 0.95
"""Share of the rows of a cluster that must have the same value in a column that groups them."""
FEWEST_PAIRED = 10
"""Rows in clusters from which on they are evidence."""
ID = re.compile(r"(^|[_\W])(id|uuid|key|hash|nr|no|number)$|[a-z]Id$|ID$")
OWNER = re.compile(
    r"(user|author|writer|speaker|patient|subject|person|customer|client|account|employee|doc|document|article|book|paper|session|conversation|"
    r"dialog|dialogue|thread|ticket|contract|database|db|table|group|case|source|url|file|product|page|passage|context|story)s?",
    re.IGNORECASE,
)


def check(sheet: Sheet) -> list[Finding]:
    """Answers that are repeated, and a column that would keep rows together which belong together."""
    if sheet.group or sheet.given or sheet.images or len(sheet) < 30:
        return []
    return _of_classes(sheet) if sheet.classes else _of_answers(sheet) if sheet.kind.answers else []


def _of_answers(sheet: Sheet) -> list[Finding]:
    """Chat rows whose answer, word for word, is that of other rows too."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, answer in enumerate(sheet.labels):
        rows_of[answer.strip()].append(row)
    if len(rows_of) < FEWEST_GROUPS:
        return []
    shared = [rows for answer, rows in rows_of.items() if len(rows) > 1 and len(answer) >= LONG]
    if all(len({sheet.parts[row] for row in rows}) == 1 for rows in shared):  # the family keeps the same answers in one part
        return []
    rows = [row for group in sorted(shared, key=len, reverse=True) for row in group]
    if len(rows) < max(FEWEST_PAIRED, MANY * len(sheet)):
        return []
    column, numbers = _grouping_column(sheet, shared, need_name=False)
    claim = f"{len(rows):,} of {len(sheet):,} rows share their answer with another row ({len(shared):,} answers): a random split tests what was trained on"
    if column:
        claim += f"; rows with the same answer have the same {column!r} ({numbers['pure']:.0%} of them; {numbers['groups']:,} values, {numbers['mean']:.1f} rows each)"
        remedy = f"keep the rows of one {column} in one part: --set data.group={column}"
    elif sheet.target and sheet.target in sheet.records[0].values and isinstance(sheet.records[0].values[sheet.target], str):
        remedy = f"keep rows with the same answer in one part: --set data.group={sheet.target}"
    else:
        remedy = "add a column that says which rows belong together, and name it: --set data.group=COLUMN"
    return [sheet.finding("groups", "warning", claim, remedy, rows, answers=len(shared), column=column, **numbers)]


def _of_classes(sheet: Sheet) -> list[Finding]:
    """Rows with a class: a column with the name of an owner or id, whose rows are near-duplicates of each other."""
    clusters: dict[int, list[int]] = defaultdict(list)
    for row, cluster in enumerate(sheet.clusters):
        clusters[cluster].append(row)
    near = [rows for rows in clusters.values() if len(rows) > 1]
    if sum(len(rows) for rows in near) < FEWEST_PAIRED:
        return []
    column, numbers = _grouping_column(sheet, near, need_name=True)
    if not column:
        return []
    rows = [row for group in sorted(near, key=len, reverse=True) for row in group]
    claim = (f"near-duplicates have the same {column!r} ({numbers['pure']:.0%} of {len(rows):,} rows; {numbers['groups']:,} values, {numbers['mean']:.1f} rows each): "
             f"rows of one {column} may tell of each other")  # fmt: skip
    return [sheet.finding("groups", "note", claim, f"to test on others than those that were trained on: --set data.group={column}", rows, column=column, **numbers)]  # fmt: skip


def _grouping_column(sheet: Sheet, clusters: Sequence[Sequence[int]], need_name: bool) -> tuple[str, Mapping[str, Any]]:
    """The column that keeps the clusters together, and its numbers; an empty name where there is none.

    Args:
        sheet: the rows.
        clusters: the numbers of rows that say the same.
        need_name: whether the column must also have the name of an owner or id.
    """
    candidates = []
    for column in sheet.others:
        by_name = bool(ID.search(column) or OWNER.fullmatch(re.sub(r"[_\W]?(id|name|uuid|key)$", "", column, flags=re.IGNORECASE)))
        if need_name and not by_name:
            continue
        numbers = _numbers(sheet, column, clusters)
        if numbers is not None:
            candidates.append((by_name, numbers["groups"], column, numbers))
    return max(candidates, key=lambda candidate: candidate[:2])[2:] if candidates else ("", {})


def _numbers(sheet: Sheet, column: str, clusters: Sequence[Sequence[int]]) -> Mapping[str, Any] | None:
    """How well a column groups the clusters; None where it does not, or has not the shape of a group."""
    cells: list[Hashable] = [record.values.get(column) for record in sheet.records]
    if any(isinstance(cell, list | dict | float | bool) for cell in cells):
        return None
    values = ["" if cell is None else str(cell).strip() for cell in cells]
    counts = Counter(value for value in values if value)
    filled = sum(counts.values())
    if not (len(counts) >= FEWEST_GROUPS and filled >= MEAN_ROWS * len(counts) and filled > 0.9 * len(values)):
        return None
    if max(counts.values()) > LARGEST_GROUP * len(values) or max(map(len, counts)) > 200:
        return None
    if sheet.classes and _tells(values, sheet.labels) > PURE:  # the class by another name
        return None
    rows = sum(len(group) for group in clusters)
    pure = sum(Counter(values[row] for row in group).most_common(1)[0][1] for group in clusters) / rows
    if pure < PURE:
        return None
    return {"pure": pure, "groups": len(counts), "mean": filled / len(counts)}


def _tells(values: Sequence[str], labels: Sequence[str]) -> float:
    """Share of the rows whose class the value alone tells, where values and classes are about as many."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        counts[value][label] += 1
    if len(counts) > 2 * len(set(labels)):
        return 0.0
    return sum(votes.most_common(1)[0][1] for votes in counts.values()) / len(values)
