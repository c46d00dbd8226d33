"""JSON without its traps: no NaN, no name twice, no number without bounds, no half characters, no depth without end."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from luthier.app.server.errors import Refused

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half of a character pair is written."""
HALF_SAID = "half of a character pair (a lone surrogate): send whole characters"
SHOWN_PLACE = 100
"""Characters of a field's path."""


def parse(content: bytes, depth: int) -> Any:
    """What a body says.

    Args:
        content: of the body.
        depth: lists and objects that may be within each other.

    Raises:
        Refused: it is not JSON, or JSON that programs read in different ways.
    """
    if not content.strip():
        raise _invalid("the body is empty: send a JSON object")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("the body is not UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_parse_finite, parse_int=_parse_integer)
    except RecursionError:
        raise _invalid(f"the JSON is nested deeper than {depth}") from None
    except ValueError as problem:
        where = f" at character {problem.pos}" if isinstance(problem, json.JSONDecodeError) else ""
        raise _invalid(f"the body is not JSON: {problem.msg if isinstance(problem, json.JSONDecodeError) else problem}{where}") from None
    if not isinstance(value, dict):
        raise _invalid("the body must be a JSON object")
    _check(value, depth, bool(HALF.search(content)))
    return value


def _check(value: Any, depth: int, halves: bool) -> None:
    """Refuse what is nested too deep, and texts with half characters; the field is named by its path, such as `messages.0.content`."""
    left: list[tuple[Any, int, str]] = [(value, 1, "")]
    while left:
        item_read, level, place = left.pop()
        if isinstance(item_read, dict | list):
            if level > depth:
                raise _invalid(f"the JSON is nested deeper than {depth}")
            if halves and isinstance(item_read, dict) and any(_is_half(name) for name in item_read):
                raise _invalid(f"a field's name{f' in {place}' if place else ''} holds {HALF_SAID}", place or None)
            items = item_read.items() if isinstance(item_read, dict) else enumerate(item_read)
            left += [(item, level + 1, f"{place}.{name}".lstrip(".") if halves else "") for name, item in items]
        elif halves and isinstance(item_read, str) and _is_half(item_read):
            raise _invalid(f"the text in {place[:SHOWN_PLACE]} holds {HALF_SAID}", place[:SHOWN_PLACE])


def _is_half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)[:50]!r} stands twice")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _parse_integer(text: str) -> int:
    if len(text) > 30:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def _invalid(message: str, field: str | None = None) -> Refused:
    return Refused(400, message, field, "invalid_json")
