"""Texts that say almost nothing, and texts longer than the base reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from luthier.core.finding import Finding
from luthier.core.randomness import permutation
from luthier.core.words import several
from luthier.data.check.sheet import Sheet

MANY = 0.05
SAMPLED = 2_000
"""Rows whose tokens are counted to know how many there are in all."""
GIANT, TIMES = 20_000, 100
"""A row is giant when it holds so many characters, and so many times what the median row holds."""
FEW_GIANT = 0.005
"""Share of the rows up to which giants are single accidents; more of them are what the rows are like."""
MARKS = 8
"""Control tokens that a tokenizer may add to a row."""
TOGETHER = 1024
"""Texts that are tokenized at once: a tokenizer keeps far more than the numbers while it works."""


def check(sheet: Sheet) -> list[Finding]:
    """Rows without a letter or digit, and rows that lose their end."""
    findings = []
    bare = [row for row in range(len(sheet)) if not any(sign.isalnum() for sign in sheet.plain[row])]
    if bare:
        findings.append(sheet.finding("lengths.bare", "warning" if len(bare) > 0.01 * len(sheet) else "note",
                                      several(len(bare), "row", "hold no letter and no digit"), "they can teach nothing; --fix takes them out", bare, drop=bare))  # fmt: skip
    findings += _giant(sheet)
    return findings + (_find_cut(sheet, sheet.context) if sheet.tokens is not None and sheet.context is not None else [])


def _giant(sheet: Sheet) -> list[Finding]:
    """Single rows that are far longer than all others: a file pasted into a cell, or a quote that swallowed rows."""
    sizes = np.array([len(text) + (0 if sheet.classes else len(label)) for text, label in zip(sheet.texts, sheet.labels, strict=True)])
    usual = float(np.median(sizes)) if len(sizes) else 0.0
    giant = [
        int(row)
        for row in np.argsort(-sizes, kind="stable")[: max(5, int(FEW_GIANT * len(sizes))) + 1]
        if sizes[row] >= max(GIANT, TIMES * usual)
    ]
    if not giant or sheet.images or len(giant) > max(5, FEW_GIANT * len(sizes)):
        return []
    first = sheet.records[giant[0]]
    where = f"{Path(first.source).name}, line {first.row}, holds {sizes[giant[0]]:,} characters"
    more = f"; so do {len(giant) - 1} others" if len(giant) > 1 else ""
    return [sheet.finding("lengths.giant", "warning", f"{where}, {sizes[giant[0]] / max(usual, 1):,.0f} times the usual row ({usual:,.0f}){more}",
                          "look at it: a file pasted into a cell, or a quote that swallowed rows? Mend it or take it out; only its beginning is read", giant,
                          notes=[f"{sizes[row]:,} characters" for row in giant], longest=int(sizes[giant[0]]), median=usual)]  # fmt: skip


def _find_cut(sheet: Sheet, context: int) -> list[Finding]:
    """Rows of which the end is not read; texts with spans are read whole, in windows."""
    if sheet.kind.learns == "spans":
        return []
    whole = [f"{text}\n{label}" if sheet.kind.learns == "answer" else text for text, label in zip(sheet.texts, sheet.labels, strict=True)]
    may = [row for row, text in enumerate(whole) if len(text.encode(errors="replace")) + MARKS > context]  # a token has a byte or more
    lengths = dict(zip(may, _tokens(sheet, [whole[row] for row in may]), strict=True))
    long = sorted((row for row in may if lengths[row] > context), key=lambda row: -lengths[row])
    if not long:
        return []
    usual = np.array(_tokens(sheet, [whole[row] for row in permutation(len(sheet), "lengths")[:SAMPLED].tolist()]))
    share = min(1.0, sum(lengths[row] - context for row in long) / (float(usual.mean()) * len(sheet)))
    return [sheet.finding("lengths.cut", "warning" if len(long) > MANY * len(sheet) else "note",
                          f"{len(long):,} of {len(sheet):,} rows {'is' if len(long) == 1 else 'are'} longer than the {context} tokens that are read; about {share:.1%} of all tokens are lost",
                          "raise objective.max_length if the base reads more, or read long rows in pieces: --set objective.long_rows=windows (`luthier run` does where many are long)",
                          long, notes=[f"{lengths[row]:,} tokens" for row in long], longest=lengths[long[0]], median=float(np.median(usual)), lost=share)]  # fmt: skip


def _tokens(sheet: Sheet, texts: list[str]) -> list[int]:
    assert sheet.tokens is not None
    return [length for start in range(0, len(texts), TOGETHER) for length in sheet.tokens(texts[start : start + TOGETHER])]
