"""Images that are blank, or too small to show anything."""

from __future__ import annotations

import numpy as np

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet

SMALL = 16
BLANK = 2.0
"""Standard deviation of a picture's grey, of 256, below which nothing can be seen in it."""


def check(sheet: Sheet) -> list[Finding]:
    """Blank images, and those that are smaller than 16 pixels or far smaller than the others."""
    if not sheet.images:
        return []
    findings = []
    values = [record.values for record in sheet.records]
    grey = [float(np.frombuffer(bytes.fromhex(value["thumbnail"]), dtype=np.uint8).std()) for value in values]
    blank = [row for row, spread in enumerate(grey) if spread < BLANK]
    if blank:
        findings.append(sheet.finding("images.blank", "warning", several(len(blank), "image", "show one even grey"), "they can teach nothing; --fix takes them out", blank, drop=blank))  # fmt: skip
    sides = np.array([min(value["width"], value["height"]) for value in values])
    usual = float(np.median(sides))
    small = np.flatnonzero((sides < SMALL) | (sides < usual / 4))
    if len(small):
        findings.append(sheet.finding("images.small", "note", several(len(small), "image", "are far smaller than the others") + f" (usual: {usual:.0f} pixels on the short side)",
                                      "they are blown up before they are read; look whether they are icons or previews",
                                      small.tolist(), notes=[f"{values[row]['width']} × {values[row]['height']}" for row in small.tolist()]))  # fmt: skip
    return findings
