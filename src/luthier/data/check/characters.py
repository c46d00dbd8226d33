"""Signs that a person does not see, and signs of a wrong encoding."""

from __future__ import annotations

import re

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet

KINDS = {
    "invisible or direction-changing signs": re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"),
    "control characters": re.compile("[\x01-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"),
    "private-use signs and non-characters": re.compile("[\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]"),
    "the replacement sign \ufffd": re.compile("\ufffd"),
    "bytes read in a wrong encoding (such as Ã©)": re.compile(
        "[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u0080|\u00e2\u20ac|\uff7f|[\uff61-\uff9f]{3}"
    ),
}
PRESENTED = re.compile("[\u200c\u200d]")
"""Joiners belong to emoji and to Persian and Indic script."""


def check(sheet: Sheet) -> list[Finding]:
    """Rows with signs that split words, hide text, or show that the bytes were misread."""
    findings = []
    whole = [f"{text}\n{label}" for text, label in zip(sheet.texts, sheet.labels, strict=True)]
    for kind, pattern in KINDS.items():
        rows = [row for row, text in enumerate(whole) if not text.isascii() or kind == "control characters"]
        rows = [row for row in rows if pattern.search(whole[row])]
        if rows:
            signs = [", ".join(sorted({f"U+{ord(sign):04X}" for sign in "".join(pattern.findall(whole[row])[:8])})[:4]) for row in rows]
            findings.append(sheet.finding("characters", "warning" if len(rows) > 0.01 * len(sheet) else "note", several(len(rows), "row", f"hold {kind}"),
                                          "the text is kept as it is; clean it where it was not meant", rows, notes=signs, kind=kind))  # fmt: skip
    return findings
