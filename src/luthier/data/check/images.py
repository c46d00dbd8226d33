"""Images that are blank, or too small to show anything; and what is made of those of several sizes and kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.core.finding import Finding
from luthier.core.words import plural, several
from luthier.data.check.sheet import Sheet
from luthier.data.sources.images import GREY, HEIGHT, MODE, THUMBNAIL, WIDTH

SMALL = 16
BLANK = 2.0
"""Standard deviation of a picture's grey, of 256, below which nothing can be seen in it."""
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
"""Pillow's modes with an alpha channel."""


def check(sheet: Sheet) -> list[Finding]:
    """Blank images, those that are smaller than 16 pixels or far smaller than the others, and what is made of several sizes and kinds."""
    if not sheet.images:
        return []
    findings = []
    values = [record.values for record in sheet.records]
    grey = [float(np.frombuffer(bytes.fromhex(value[THUMBNAIL]), dtype=np.uint8).std()) for value in values]
    even = [row for row, spread in enumerate(grey) if spread < BLANK]
    dark = [row for row in even if values[row][MODE].startswith("I")]
    if dark:
        findings.append(sheet.finding("images.dark", "warning", several(len(dark), "image", "of 16 bits show nothing in their upper 8 bits, which are all that is read"),
                                      "they are blank, or meant as 10 or 12 bits beside others of 16: save all of them with 8 bits, scaled alike; --fix leaves them in", dark))  # fmt: skip
    blank = [row for row in even if row not in set(dark)]
    if blank:
        findings.append(sheet.finding("images.blank", "warning", several(len(blank), "image", "show one even grey"), "they can teach nothing; --fix takes them out", blank, drop=blank))  # fmt: skip
    sides = np.array([min(value[WIDTH], value[HEIGHT]) for value in values])
    usual = float(np.median(sides))
    small = np.flatnonzero((sides < SMALL) | (sides < usual / 4))
    if len(small):
        findings.append(sheet.finding("images.small", "note", several(len(small), "image", "are far smaller than the others") + f" (usual: {usual:.0f} pixels on the short side)",
                                      "they are blown up before they are read; look whether they are icons or previews",
                                      small.tolist(), notes=[f"{values[row][WIDTH]} × {values[row][HEIGHT]}" for row in small.tolist()]))  # fmt: skip
    return [*findings, *_find_mixed(sheet, values)]


def _find_mixed(sheet: Sheet, values: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What is made of images of several sizes or kinds, in one note.

    Args:
        sheet: the rows.
        values: what each row says of its image.
    """
    sizes = Counter((int(value[WIDTH]), int(value[HEIGHT])) for value in values)
    modes = Counter(str(value[MODE]) for value in values)
    if len(sizes) == 1 and len(modes) == 1 and not set(modes) & set(TRANSPARENT):
        return []
    (least, _), (most, _) = (choose(sizes.items(), key=lambda item: item[0][0] * item[0][1]) for choose in (min, max))
    kinds = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
    between = f" from {least[0]} × {least[1]} to {most[0]} × {most[1]} pixels" if len(sizes) > 1 else ""
    done = ["each becomes a square of objective.side pixels; its proportions are not kept"]
    if len(modes) > 1 and not set(modes) <= set(GREY):
        done.append("as some are coloured, all are read in colours (--set objective.colour=grey reads all as grey)")
    if set(modes) & set(TRANSPARENT):
        done.append("transparency is dropped: the colours beneath it are seen")
    if any(mode.startswith("I") for mode in modes):
        done.append("of 16 bits the upper 8 are read")
    shown = [next(row for row, value in enumerate(values) if value[MODE] == mode) for mode in modes]
    return [sheet.finding("images.mixed", "note", f"the images have {plural(len(sizes), 'size')}{between}, and are stored in {plural(len(modes), 'way')} ({kinds})",
                          "; ".join(done), shown, notes=[f"{mode}, {values[row][WIDTH]} × {values[row][HEIGHT]}" for mode, row in zip(modes, shown, strict=True)],
                          sizes=len(sizes), modes=dict(modes))]  # fmt: skip
