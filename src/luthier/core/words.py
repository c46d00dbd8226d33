"""Numbers as a person reads them."""

from __future__ import annotations


def several(count: int, noun: str, verb: str) -> str:
    """A count with its noun and verb: "1 row holds", "3 rows hold".

    Args:
        count: how many.
        noun: in the singular.
        verb: in the plural; what follows it stays.
    """
    if count != 1:
        return f"{count:,} {noun}s {verb}"
    first, _, rest = verb.partition(" ")
    one = {"are": "is", "were": "was", "have": "has", "carry": "carries"}.get(first, f"{first}s")
    return f"1 {noun} {one} {rest}".rstrip()


def duration(seconds: float) -> str:
    """A time span a person reads at a glance."""
    seconds = max(0, round(seconds))
    return (
        f"{seconds} s"
        if seconds < 100
        else f"{seconds // 60} min {seconds % 60:02d} s"
        if seconds < 6000
        else f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    )


def size(number: float) -> str:
    """Bytes at a glance: "540 MB", "1.6 GB"."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
