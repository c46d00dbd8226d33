"""Classes that are rare, and what a test set of this size can show at all."""

from __future__ import annotations

import math
from collections import Counter

from luthier.core.finding import Finding
from luthier.core.words import plural, several
from luthier.data.check.sheet import Sheet

FEWEST_TESTED = 10
RARE = 0.1
FEWEST_CHOOSING = 60


def check(sheet: Sheet) -> list[Finding]:
    """Imbalance, classes too small to judge, and the smallest difference that the test rows could detect."""
    tested = sum(part == "test" for part in sheet.parts)
    if not sheet.classes or not tested:
        return []
    findings = []
    whole = Counter(sheet.labels)
    test_counts = Counter(label for label, part in zip(sheet.labels, sheet.parts, strict=True) if part == "test")
    rarest, commonest = min(whole, key=lambda label: whole[label]), max(whole, key=lambda label: whole[label])
    if whole[rarest] < RARE * whole[commonest]:
        rows = [row for row in range(len(sheet)) if sheet.labels[row] == rarest]
        findings.append(sheet.finding("balance", "note", f"{commonest!r} has {whole[commonest]:,} rows, {rarest!r} {whole[rarest]:,}",
                                      "accuracy hides the rare classes: look at macro-F1, and try objective.class_weights=balanced", rows, classes=dict(whole.most_common(100))))  # fmt: skip
    few = sorted(label for label in whole if test_counts[label] < FEWEST_TESTED)
    if few:
        rows = [row for row in range(len(sheet)) if sheet.labels[row] in set(few) and sheet.parts[row] == "test"]
        findings.append(sheet.finding("balance.untested", "note", f"{len(few):,} of {len(whole):,} classes have fewer than {FEWEST_TESTED} test rows ({', '.join(few[:5])})",
                                      "what the report says of these classes alone is chance; more rows of them would help", rows, classes={label: test_counts[label] for label in few[:100]}))  # fmt: skip
    choosing = sum(part == "validation" for part in sheet.parts)
    if choosing < FEWEST_CHOOSING:
        findings.append(Finding(check="balance.folds", claim=f"{several(choosing, 'validation row', 'choose')} the checkpoint: the score they give owes much to chance",
                                evidence={"validation_rows": choosing}, remedy="--set data.folds=5 says how much, for five more (short) runs on the rows that are not sealed"))  # fmt: skip
    detectable = smallest_difference(tested)
    findings.append(Finding(check="balance.power", claim=f"{plural(tested, 'test row')}: a difference below about {100 * detectable:.1f} points of accuracy cannot be told from chance",
                            evidence={"test_rows": tested, "detectable": detectable}))  # fmt: skip
    return findings


def smallest_difference(rows: int, disagree: float = 0.1) -> float:
    """The least paired difference in accuracy that an interval of 95 % excludes zero for, four times in five.

    Args:
        rows: of the test set.
        disagree: share of the rows on which two models differ in being right.

    Source: Connor 1987, sample size for McNemar's test (normal approximation).
    """
    return (1.96 + 0.84) * math.sqrt(disagree / rows)
