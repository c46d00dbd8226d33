"""Which language the rows are written in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet

ENGLISH = frozenset(
    "the and of to is that it was for with this you i my not be are have on but they at from we or an as your can what how".split()
)
LEAST_ENGLISH = 0.08
"""Running English text has 25 to 40 % of these words; Italian, German, Spanish and French have under 5 %."""
READ = 300
READ_OF_A_ROW = 1_000
"""Characters: one giant cell must not speak for all rows."""
MIXED = 0.005


def check(sheet: Sheet) -> list[Finding]:
    """Text that is not English, for the usual bases read English; and rows in another script than the others."""
    findings = []
    words = re.findall(r"[^\W\d_]+", " ".join(text[:READ_OF_A_ROW] for text in sheet.texts[:READ]).lower())
    english = sum(word in ENGLISH for word in words) / max(len(words), 1)
    if sheet.kind.english_base and len(words) >= 200 and english < LEAST_ENGLISH:
        findings.append(Finding(check="language", severity="warning", claim=f"the text does not look English: {english:.1%} of its words are the most frequent English ones",
                                evidence={"share": english, "words": len(words)}, remedy="the usual bases read English: give --base gemma3-270m, which read many languages, or a base of the data's own"))  # fmt: skip
    scripts = [script_of(text) for text in sheet.texts]
    counts = Counter(script for script in scripts if script)
    if len(counts) > 1:
        main = counts.most_common(1)[0][0]
        rows = [row for row in range(len(sheet)) if scripts[row] not in ("", main)]
        findings.append(sheet.finding("language.scripts", "warning" if len(rows) > MIXED * len(sheet) else "note",
                                      several(len(rows), "row", "are in another script than the others") + f" ({', '.join(f'{name.lower()} {count:,}' for name, count in counts.most_common(4))})",
                                      "a base that reads one script sees the others as fragments; or the file's encoding was guessed wrongly", rows,
                                      notes=[scripts[row].lower() for row in rows], scripts=dict(counts)))  # fmt: skip
    return findings


def script_of(text: str) -> str:
    """The script of most of a text's letters (LATIN, CYRILLIC, CJK …); empty where there are none."""
    if text.isascii():
        return "LATIN" if any(sign.isalpha() for sign in text) else ""
    counts = Counter(unicodedata.name(sign, "").split(" ")[0] for sign in text[:400] if sign.isalpha())
    counts = Counter({name: count for name, count in counts.items() if name and name not in ("MODIFIER", "FEMININE", "MASCULINE")})
    return counts.most_common(1)[0][0].split("-")[0] if counts else ""
