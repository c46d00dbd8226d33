"""Rows that say the same, or nearly the same, twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from luthier.core.finding import Finding
from luthier.core.words import plural
from luthier.data.check.sheet import Sheet

MANY = 0.05


def check(sheet: Sheet) -> list[Finding]:
    """Exact copies (but for case, spaces and punctuation), and clusters of near-duplicates."""
    findings = []
    first: dict[tuple[str, str], int] = {}
    copies = [row for row, key in enumerate(zip(sheet.plain, sheet.labels, strict=True)) if first.setdefault(key, row) != row]
    if copies:
        notes = [f"as line {sheet.records[first[sheet.plain[row], sheet.labels[row]]].row}" for row in copies]
        findings.append(sheet.finding("duplicates.exact", "warning" if len(copies) > MANY * len(sheet) else "note",
                                      f"{len(copies):,} of {plural(len(sheet), 'row')} {'repeats' if len(copies) == 1 else 'repeat'} another's text{'' if sheet.kind.learns == 'nothing' else ' and label'}",
                                      f"{_describe_parts(sheet, sheet.plain, 'copies are')}; --fix keeps the first of each", copies, drop=copies, notes=notes))  # fmt: skip
    groups: dict[int, list[int]] = defaultdict(list)
    for row, cluster in enumerate(sheet.clusters):
        groups[cluster].append(row)
    near = {cluster: rows for cluster, rows in groups.items() if len({sheet.plain[row] for row in rows}) > 1}
    if near:
        rows = [row for cluster in sorted(near, key=lambda cluster: -len(near[cluster])) for row in near[cluster]]
        largest = max(len(members) for members in near.values())
        findings.append(sheet.finding("duplicates.near", "note", f"{len(rows):,} rows lie in {plural(len(near), 'cluster')} of near-duplicates, the largest of {largest:,}",
                                      f"{_describe_parts(sheet, sheet.clusters, 'a cluster is')}; check whether a template lies behind the largest", rows,
                                      notes=[f"cluster of line {sheet.records[sheet.clusters[row]].row}" for row in rows],
                                      clusters=len(near), largest=largest, sizes=dict(Counter(len(members) for members in near.values()).most_common(10))))  # fmt: skip
    return findings


def _describe_parts(sheet: Sheet, keys: Sequence[Hashable], noun: str) -> str:
    """Whether rows with equal keys are in one part, as a sentence: those of given parts stay where they are.

    Args:
        sheet: all rows.
        keys: one a row.
        noun: what such rows are called, with its verb.
    """
    part: dict[Hashable, str] = {}
    if any(part.setdefault(key, own) != own for key, own in zip(keys, sheet.parts, strict=True)):
        return "some lie in two parts, where they can flatter the score (`leakage` counts them)"
    return f"{noun} kept in one part, so they cannot flatter the score"
