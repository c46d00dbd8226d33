"""Data about persons: patterns, and checksums where the thing has one."""

from __future__ import annotations

import re
from collections.abc import Callable

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet


def luhn(digits: str) -> bool:
    """Whether a card number's last digit fits the others (ISO/IEC 7812)."""
    plain = [int(digit) for digit in digits if digit.isdigit()]
    if not 13 <= len(plain) <= 19 or len(set(plain)) < 2:
        return False
    doubled = [digit if index % 2 == 0 else digit * 2 - 9 * (digit > 4) for index, digit in enumerate(reversed(plain))]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether a bank account number's check digits fit (ISO 13616)."""
    plain = re.sub(r"\s", "", text)
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _any(text: str) -> bool:
    return True


def _phone(text: str) -> bool:
    return 8 <= sum(sign.isdigit() for sign in text) <= 15


def _address(text: str) -> bool:
    return all(int(part) < 256 for part in text.split(".")) and text not in ("0.0.0.0", "127.0.0.1")


def _social(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


_DIGIT = re.compile(r"\d")
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "e-mail addresses": (re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}\b"), _any),
    "card numbers": (re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-])"), luhn),
    "bank accounts (IBAN)": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), iban),
    "telephone numbers": (
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?)(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}(?!\w)|(?<![\w.])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)"
        ),
        _phone,
    ),
    "US social security numbers": (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), _social),
    "network addresses": (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"), _address),
}


def find_personal_data(text: str) -> dict[str, list[str]]:
    """What of each kind a text holds."""
    if "@" not in text and not _DIGIT.search(text):
        return {}
    hits = {kind: [hit for hit in pattern.findall(text) if valid(hit)] for kind, (pattern, valid) in KINDS.items()}
    return {kind: values for kind, values in hits.items() if values}


def check(sheet: Sheet) -> list[Finding]:
    """Rows that hold data about persons; a model can learn them by heart and say them to strangers."""
    rows: dict[str, list[int]] = {}
    for row in range(len(sheet)):
        for kind in find_personal_data(sheet.texts[row] if sheet.classes else f"{sheet.texts[row]}\n{sheet.labels[row]}"):
            rows.setdefault(kind, []).append(row)
    return [
        sheet.finding(
            "personal",
            "warning",
            several(len(numbers), "row", f"hold {kind}"),
            "a generating model can repeat them: replace them by a mark such as [EMAIL] before you train what others will use",
            numbers,
            kind=kind,
        )
        for kind, numbers in rows.items()
    ]
