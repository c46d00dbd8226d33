"""One label, spelt in several ways."""

from __future__ import annotations

from collections import Counter, defaultdict

from luthier.core.finding import Finding
from luthier.data.check.sheet import Sheet
from luthier.data.near_duplicates import normalise
from luthier.data.usable_rows import tidy_label

MISSING = {"nan", "na", "n/a", "null", "none", "nil", "?", "-", "--", "unknown", "undefined", "#n/a", "not available"}
"""How programs write a cell that holds nothing; a class of that name is often no class."""

MANY_NUMBERS = 20
"""Different numbers as labels from which on they look like amounts."""


def check(sheet: Sheet) -> list[Finding]:
    """Labels that differ in case, spaces, punctuation, or as 1, 1.0, 01 and True do; nothing is merged by itself. Labels that read like empty cells."""
    if not sheet.classes:
        return []
    counts = Counter(sheet.labels)
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[_normalise_spelling(label)].append(label)
    return _alike(sheet, counts, groups) + _find_missing(sheet, counts) + _amounts(counts)


def _alike(sheet: Sheet, counts: Counter[str], groups: dict[str, list[str]]) -> list[Finding]:
    alike = [sorted(labels, key=lambda label: (-counts[label], label)) for labels in groups.values() if len(labels) > 1]
    if not alike:
        return []
    examples = "; ".join(" = ".join(repr(label) for label in labels) for labels in alike[:3])
    fewer = {label for labels in alike for label in labels[1:]}
    rows = [row for row in range(len(sheet)) if sheet.labels[row] in fewer]
    spaces = all(len({tidy_label(label) for label in labels}) == 1 for labels in alike)
    some = any(tidy_label(label) != label for labels in alike for label in labels)
    remedy = "each is a class of its own now: " + (
        "--fix takes the spaces around labels away" if spaces
        else "write each label one way in the file" + (" (--fix takes the spaces around labels away, and merges nothing else)" if some else ""))  # fmt: skip
    return [sheet.finding("spellings", "warning", f"spellings of one value? {examples}", remedy, rows,
                          labels={label: counts[label] for labels in alike for label in labels})]  # fmt: skip


def _find_missing(sheet: Sheet, counts: Counter[str]) -> list[Finding]:
    """Labels that programs write for a cell without a value."""
    missing = [label for label in counts if label.strip().casefold() in MISSING]
    if not missing or len(counts) - len(missing) < 2:  # yes, no and none may be all there is to say
        return []
    rows = [row for row in range(len(sheet)) if sheet.labels[row] in set(missing)]
    text = ", ".join(f"{label!r} ({counts[label]:,} rows)" for label in missing)
    return [sheet.finding("spellings.missing", "note", f"labels that read like an empty cell are learned as classes: {text}",
                          "if these rows have no label, empty the cell: they are set aside then", rows, labels={label: counts[label] for label in missing})]  # fmt: skip


def _amounts(counts: Counter[str]) -> list[Finding]:
    """Many numbers, as of a measure: they are learned as classes without an order."""
    try:
        numbers = [float(label) for label in counts]
    except ValueError:
        return []
    codes = all(number.is_integer() for number in numbers) and max(numbers) - min(numbers) < 1.2 * len(
        numbers
    )  # as sets number their classes
    if len(numbers) <= MANY_NUMBERS or codes:
        return []
    return [Finding(check="spellings.numbers", severity="warning", claim=f"the labels are {len(numbers):,} numbers from {min(numbers):g} to {max(numbers):g}: each is learned as a class of its own, without their order",
                    evidence={"numbers": len(numbers)}, remedy="learn them as amounts: --task regression; or make a few classes of them (low, middle, high), or name another column with --target")]  # fmt: skip


def _normalise_spelling(label: str) -> str:
    plain = normalise(label)
    if label.strip().startswith(("-", "+")):
        return label.strip()
    try:
        plain = f"{float(label.strip()):g}"
    except ValueError:
        plain = "1" if plain == "true" else "0" if plain == "false" else plain
    return plain
