"""Watchers as a person gives them: refused before anything is read where they cannot be called with a step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from luthier.core.errors import ExperimentError


def refuse_watchers(watchers: Any) -> None:
    """Refuse what is no list of functions of one step.

    Args:
        watchers: as given.

    Raises:
        ExperimentError: it is something else, or one of them takes no step or needs more than one.
    """
    remedy = "give a list of functions that take a step: watchers=[lambda step: print(step.number, step.loss)]"
    if isinstance(watchers, str) or not isinstance(watchers, Sequence):
        raise ExperimentError(f"watchers is {watchers!r}, which is no list", remedy)
    for number, watch in enumerate(watchers, 1):
        if not callable(watch):
            raise ExperimentError(f"watcher {number} is {watch!r}, which cannot be called", remedy)
        try:
            inspect.signature(watch).bind(None)
        except TypeError as problem:
            raise ExperimentError(f"watcher {number}, {watch!r}, cannot be called with a step: {problem}", remedy) from None
        except ValueError:  # a built-in that does not say what it takes
            continue
