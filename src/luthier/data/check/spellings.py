"""One label, spelt in several ways."""

from __future__ import annotations

from collections import Counter, defaultdict

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet
from luthier.data.near import normal

TRUE, FALSE = {"1", "true", "yes", "y", "t"}, {"0", "false", "no", "n", "f"}


def check(sheet: Sheet) -> list[Finding]:
    """Labels that differ in case, spaces, punctuation, or as 1, 1.0, 01 and True do; nothing is merged by itself."""
    if not sheet.classes:
        return []
    counts = Counter(sheet.labels)
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[_meant(label)].append(label)
    alike = [sorted(labels, key=lambda label: (-counts[label], label)) for labels in groups.values() if len(labels) > 1]
    if not alike:
        return []
    said = "; ".join(" = ".join(repr(label) for label in labels) for labels in alike[:3])
    fewer = {label for labels in alike for label in labels[1:]}
    rows = [row for row in range(len(sheet)) if sheet.labels[row] in fewer]
    return [sheet.finding("spellings", "warning", f"spellings of one value? {said}", "write each label one way in the file: nothing is merged by itself",
                          rows, labels={label: counts[label] for labels in alike for label in labels})]  # fmt: skip


def _meant(label: str) -> str:
    plain = normal(label)
    if label.strip().startswith(("-", "+")):
        return label.strip()
    try:
        plain = f"{float(label.strip()):g}"
    except ValueError:
        plain = "1" if plain == "true" else "0" if plain == "false" else plain
    return plain
