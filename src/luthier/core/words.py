"""Format counts, durations and sizes for people."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """A count with its noun: "1 step", "1,201 steps", "2 classes", "3 queries".

    Args:
        number: how many.
        noun: in the singular; of several words the last takes the plural.
    """
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{number:,} {noun}es"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{number:,} {noun}s"


def with_article(noun: str) -> str:
    """A noun with its article: "a chat model", "an autoencoder"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


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
    singular = {"are": "is", "were": "was", "have": "has", "carry": "carries"}.get(first, f"{first}s")
    return f"1 {noun} {singular} {rest}".rstrip()


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
