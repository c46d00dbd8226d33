"""Dotted patterns to modules and parameters; a pattern that matches nothing is an error."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from luthier.core.errors import ExperimentError, nearest


def matching(names: Iterable[str], patterns: Iterable[str], what: str) -> list[str]:
    """The names that fit any of the patterns, in the order of the names.

    Args:
        names: dotted names.
        patterns: shell patterns (`*.q_proj`) or last parts of a name (`q_proj`).
        what: what is being selected, for the message.

    Raises:
        ExperimentError: a pattern matches nothing.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matches = [
            name for name in names if fnmatchcase(name, pattern) or name.rsplit(".", 1)[-1] == pattern or name.endswith(f".{pattern}")
        ]
        if not matches:
            raise ExperimentError(
                f"{what}: the pattern {pattern!r} matches nothing", nearest(pattern, {name.rsplit(".", 1)[-1] for name in names})
            )
        chosen.update(matches)
    return [name for name in names if name in chosen]
