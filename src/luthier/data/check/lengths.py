"""Texts that say almost nothing, and texts longer than the base reads."""

from __future__ import annotations

import numpy as np

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet
from luthier.data.near import normal

MANY = 0.05


def check(sheet: Sheet) -> list[Finding]:
    """Rows without a letter or digit, and rows that lose their end."""
    found = []
    bare = [row for row in range(len(sheet)) if not any(sign.isalnum() for sign in normal(sheet.texts[row]))]
    if bare:
        found.append(sheet.finding("lengths.bare", "warning" if len(bare) > 0.01 * len(sheet) else "note",
                                   several(len(bare), "row", "hold no letter and no digit"), "they can teach nothing; --fix takes them out", bare, drop=bare))  # fmt: skip
    if sheet.tokens is not None and sheet.context is not None:
        whole = [f"{text}\n{label}" if sheet.task == "chat" else text for text, label in zip(sheet.texts, sheet.labels, strict=True)]
        lengths = np.array(sheet.tokens(whole))
        long = np.flatnonzero(lengths > sheet.context)
        long = long[np.argsort(-lengths[long], kind="stable")].tolist()
        if long:
            lost = float((lengths - sheet.context).clip(min=0).sum() / lengths.sum())
            found.append(sheet.finding("lengths.cut", "warning" if len(long) > MANY * len(sheet) else "note",
                                       f"{len(long):,} of {len(sheet):,} rows are longer than the {sheet.context} tokens that are read; {lost:.1%} of all tokens are lost",
                                       "raise objective.max_length if the base reads more, or read long rows in pieces: --set objective.long_rows=windows (`luthier run` does where many are long)",
                                       long, notes=[f"{lengths[row]:,} tokens" for row in long], longest=int(lengths.max()), median=float(np.median(lengths)), lost=lost))  # fmt: skip
    return found
