"""A room's table: names to components, one line each, imported on first use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from luthier.core.errors import ExperimentError, nearest


class Table:
    """Maps a name to the class or value that bears it.

    Args:
        noun: what the table lists, for messages and for the entry point group `luthier.<noun>`.
        entries: name → "module:Class".
    """

    def __init__(self, noun: str, **entries: str) -> None:
        self.noun = noun
        self._entries = entries
        self._foreign: dict[str, str] | None = None

    def entries(self) -> dict[str, str]:
        """Name → "module:attribute", those of other packages included."""
        return self._all()

    def _all(self) -> dict[str, str]:
        if self._foreign is None:
            self._foreign = {point.name: point.value for point in entry_points(group=f"luthier.{self.noun}")}
        return {**self._foreign, **self._entries}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def __getitem__(self, name: str) -> Any:
        """What is listed under `name`.

        Raises:
            ExperimentError: no such name; the message gives the nearest.
        """
        entries = self._all()
        if name not in entries:
            raise ExperimentError(f"there is no {self.noun} {name!r}", nearest(name, entries))
        module, _, attribute = entries[name].partition(":")
        return getattr(import_module(module), attribute)
