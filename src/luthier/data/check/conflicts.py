"""The same text with different labels."""

from __future__ import annotations

from collections import Counter, defaultdict

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet


def check(sheet: Sheet) -> list[Finding]:
    """Texts that carry more than one label: at most one of them can be right."""
    if not sheet.classes:
        return []
    by_text: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(sheet.plain):
        by_text[text].append(row)
    groups = [rows for rows in by_text.values() if len({sheet.labels[row] for row in rows}) > 1]
    if not groups:
        return []
    rows = [row for group in groups for row in group]
    outvoted = [row for group in groups for row in _find_outvoted(sheet, group)]
    return [sheet.finding("conflicts", "warning", several(len(groups), "text", "carry different labels") + f" ({len(rows):,} rows)",
                          "decide for one label; --fix keeps the label of the majority, and none where there is no majority", rows, drop=outvoted, texts=len(groups))]  # fmt: skip


def _find_outvoted(sheet: Sheet, group: list[int]) -> list[int]:
    votes = Counter(sheet.labels[row] for row in group).most_common()
    winner = votes[0][0] if votes[0][1] > votes[1][1] else None
    return [row for row in group if sheet.labels[row] != winner]
