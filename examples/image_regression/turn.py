"""Turns each chest X-ray of examples/autoencoder/scans by an angle that its name decides, and writes down which.

    python examples/image_regression/turn.py

The middle of 20 × 20 pixels is kept, which no corner of the turned square reaches: nothing but the picture itself tells the angle.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
MOST, SIDE, FINER = 20.0, 20, 4
"""Degrees to either side; pixels that are kept; how many times as large a picture is turned."""


def degrees(name: str) -> float:
    """The angle of a picture, evenly between -20 and 20."""
    share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return round((2 * share - 1) * MOST, 1)


def main() -> None:
    """Write `scans/` and `turned.csv` beside this file."""
    (HERE / "scans").mkdir(exist_ok=True)
    rows = []
    for file in sorted((HERE.parent / "autoencoder" / "scans").glob("*/*.png")):
        name = f"{file.parent.name}-{file.stem}.png"
        with Image.open(file) as image:
            side = image.width * FINER
            large = image.convert("L").resize((side, side), Image.Resampling.BICUBIC).rotate(degrees(name), Image.Resampling.BICUBIC)
        edge = (side - SIDE * FINER) // 2
        middle = large.crop((edge, edge, side - edge, side - edge)).resize((SIDE, SIDE), Image.Resampling.BOX)
        middle.save(HERE / "scans" / name, optimize=True)
        rows.append((f"scans/{name}", degrees(name)))
    with (HERE / "turned.csv").open("w", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([("scan", "degrees"), *rows])


if __name__ == "__main__":
    main()
