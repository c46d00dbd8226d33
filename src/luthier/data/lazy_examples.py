"""Examples that are made when they are asked for: memory holds what they are made from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from luthier.core.types import Example


class LazyExamples(Sequence[Example]):
    """A sequence whose examples are made one by one; a subclass says how many there are, and makes one."""

    @abstractmethod
    def make(self, number: int) -> Example:
        """The example at a position.

        Args:
            number: of it, 0 ≤ number < length.
        """

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        if isinstance(position, slice):
            return [self.make(index) for index in range(*position.indices(len(self)))]
        index, count = int(position), len(self)
        if not -count <= index < count:
            raise IndexError(index)
        return self.make(index % count)

    def __iter__(self) -> Iterator[Example]:
        return (self.make(index) for index in range(len(self)))


class Joined(LazyExamples):
    """Two sequences of examples as one.

    Args:
        first: those in front.
        second: those behind them.
    """

    def __init__(self, first: Sequence[Example], second: Sequence[Example]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def make(self, number: int) -> Example:
        """An example of the first, or of the second."""
        return self.first[number] if number < len(self.first) else self.second[number - len(self.first)]
