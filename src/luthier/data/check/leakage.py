"""Rows of a given test or validation file that are also training rows."""

from __future__ import annotations

from collections import defaultdict

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet


def check(sheet: Sheet) -> list[Finding]:
    """Held-out rows whose text, or nearly their text, was trained on; our own splits cannot leak."""
    if not sheet.given:
        return []
    found = []
    trained: dict[str, list[int]] = defaultdict(list)
    groups: dict[int, int] = {}
    for row in range(len(sheet)):
        if sheet.parts[row] == "train":
            trained[sheet.plain[row]].append(row)
            groups.setdefault(sheet.clusters[row], row)
    for part in ("test", "validation"):
        held = [row for row in range(len(sheet)) if sheet.parts[row] == part]
        exact = [row for row in held if sheet.plain[row] in trained]
        near = [row for row in held if sheet.plain[row] not in trained and sheet.clusters[row] in groups]
        for kind, rows, others in (
            ("leakage", exact, [trained[sheet.plain[row]][0] for row in exact]),
            ("leakage.near", near, [groups[sheet.clusters[row]] for row in near]),
        ):
            if not rows:
                continue
            drop = sorted({other for row in rows for other in trained[sheet.plain[row]]}) if kind == "leakage" else []
            verb = "are also" if kind == "leakage" else "are nearly"
            found.append(sheet.finding(kind, "warning", f"{len(rows):,} of {len(held):,} given {part} rows {verb} training rows",
                                       f"the {part} score flatters the model; --fix takes the copies out of the training rows" if drop
                                       else f"the {part} score may flatter the model; compare the rows", rows, drop=drop,
                                       notes=[f"training line {sheet.records[other].row}" for other in others], share=len(rows) / len(held)))  # fmt: skip
    return found
