"""Held-out rows that are also rows that the model was trained or chosen on."""

from __future__ import annotations

from collections import defaultdict

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet

EARLIER = {"test": ("train", "validation"), "validation": ("train",)}
"""Part → those that the model has met before it is scored on this one; the validation rows choose the checkpoint and what ships."""


def check(sheet: Sheet) -> list[Finding]:
    """Held-out rows whose text, or nearly their text, was met before; what is split here from one file (but by time) cannot leak."""
    if not sheet.given:
        return []
    findings = []
    for part in EARLIER:
        copies, near = find_copies(sheet, part)
        findings += [*_finding(sheet, part, "leakage", copies), *_finding(sheet, part, "leakage.near", near)]
    return findings


def find_copies(sheet: Sheet, part: str) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The rows of a part that were met before.

    Args:
        sheet: all rows.
        part: test or validation.

    Returns:
        row → the earlier rows with the same text; and, of the rows without such, row → the earlier rows of the same cluster
    """
    rows = [row for row in range(len(sheet)) if sheet.parts[row] == part]
    same: dict[str, list[int]] = defaultdict(list)
    alike: dict[int, list[int]] = defaultdict(list)
    for row in range(len(sheet)):
        if sheet.parts[row] in EARLIER[part] and rows and (sheet.by_time or sheet.records[row].source != sheet.records[rows[0]].source):
            same[sheet.plain[row]].append(row)
            alike[sheet.clusters[row]].append(row)
    copies = {row: same[sheet.plain[row]] for row in rows if sheet.plain[row] in same}
    return copies, {row: alike[sheet.clusters[row]] for row in rows if row not in copies and sheet.clusters[row] in alike}


def _finding(sheet: Sheet, part: str, kind: str, pairs: dict[int, list[int]]) -> list[Finding]:
    """What is said of the rows of a part that were met before.

    Args:
        sheet: all rows.
        part: test or validation.
        kind: leakage or leakage.near.
        pairs: row → where it was met before.
    """
    if not pairs:
        return []
    training = next(record.source for record, own in zip(sheet.records, sheet.parts, strict=True) if own == "train")
    count = sheet.parts.count(part)
    prefix = "given " if sheet.records[next(iter(pairs))].source != training else ""

    def name_part(row: int) -> str:  # a row of the training file is called one, also where our split made it a validation row
        return "validation" if sheet.parts[row] == "validation" and (sheet.by_time or sheet.records[row].source != training) else "training"

    met = " or ".join(sorted({name_part(other) for others in pairs.values() for other in others}))
    notes = [f"{name_part(others[0])} line {sheet.records[others[0]].row}" for others in pairs.values()]
    share = len(pairs) / count
    if kind == "leakage.near":
        return [sheet.finding(kind, "warning", f"{len(pairs):,} of {count:,} {prefix}{part} rows are nearly {met} rows",
                              f"the {part} score may flatter the model; compare the rows", pairs, notes=notes, share=share, part=part)]  # fmt: skip
    in_training = [[other for other in others if sheet.records[other].source == training] or
                   ([row] if sheet.records[row].source == training else []) for row, others in pairs.items()]  # fmt: skip
    remedies = ["--fix takes the copies out of the training rows"] if any(in_training) else []
    if not all(in_training):
        remedies.append("take those that the training file does not hold out of the validation or the test file")
    return [sheet.finding(kind, "warning", f"{len(pairs):,} of {count:,} {prefix}{part} rows are also {met} rows",
                          f"the {part} score flatters the model; {'; '.join(remedies)}", pairs, drop=sorted({row for rows in in_training for row in rows}),
                          notes=notes, share=share, part=part)]  # fmt: skip
