"""Numbers that are written so that no program reads them as numbers: with a decimal comma, a currency sign, a degree sign."""

from __future__ import annotations

import re
import unicodedata

from luthier.data.rows import Rows

NEARLY_ALL = 0.95
"""Share of the filled cells of a column that are numbers in some writing, from which on it is a column of numbers."""
GROUPS = r"\d{1,3}(?:[.,' \u00a0\u202f\u2019]\d{3})+(?:[.,]\d+)?"
NUMBER = re.compile(rf"(?P<before>\D{{0,4}}?)\s*[-+]?\s*(?P<digits>{GROUPS}|\d+(?:[.,]\d+)?)\s*(?P<after>\D{{0,4}})")
CODES = ("eur", "usd", "gbp", "chf", "jpy", "cny", "inr", "kr", "zł")
DEGREES = ("°", "º", "°c", "°f", "deg")
REMEDY = "write the cells as plain numbers, with a point and without a sign, such as 1234.5"
"""Such cells are not guessed: 1,234 is a thousand here and a little more than one there."""


def describe_written_numbers(rows: Rows, column: str) -> str:
    """How the cells of a column that hold no plain numbers look like numbers all the same; empty where they do not.

    Args:
        rows: of the table.
        column: that is looked at.

    Returns:
        Such as "look like numbers with a decimal comma, such as '3,5'".
    """
    cells = [str(row[column]).strip() for row in rows.values if row.get(column) is not None]
    filled = [cell for cell in cells if cell]
    found = [_sign_of(cell) for cell in filled]
    strange = [(sign, cell) for sign, cell in zip(found, filled, strict=True) if sign]
    plain = found.count("")
    if len({cell for _, cell in strange}) < 2 or plain + len(strange) < NEARLY_ALL * len(filled) or plain >= NEARLY_ALL * len(filled):
        return ""
    sign, cell = strange[0]
    return f"look like numbers with {sign}, such as {cell[:20]!r}"


def find_written_numbers(rows: Rows, read: tuple[str, ...] = ()) -> tuple[str, str] | None:
    """The first column that is not read whose cells look like numbers, and how; None where there is none."""
    said = ((name, describe_written_numbers(rows, name)) for name in rows.columns if name not in read)
    return next(((name, how) for name, how in said if how), None)


def _sign_of(cell: str) -> str | None:
    """What keeps a cell from being read as a number; empty where it is a plain one, None where it is none at all."""
    match = NUMBER.fullmatch(cell)
    if match is None:
        return None
    around = [part for part in (match["before"].strip().lower(), match["after"].strip().lower()) if part not in ("", "-", "+")]
    for part in around:
        if any(unicodedata.category(character) == "Sc" for character in part) or part in CODES:
            return "a currency sign"
        if part in DEGREES:
            return "a degree sign"
        if part == "%":
            return "a percent sign"
        return None
    digits = match["digits"]
    if "," in digits:
        return "a decimal comma" if re.fullmatch(r"\d+,(\d{1,2}|\d{4,})", digits) else "a comma"
    return "" if re.fullmatch(r"\d+(\.\d+)?", digits) else "gaps between the thousands"
