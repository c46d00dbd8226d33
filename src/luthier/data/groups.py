"""Union-find: things that belong together, directly or through others."""

from __future__ import annotations


class Groups:
    """Numbers that are joined pair by pair; the least of a group stands for it.

    Args:
        count: how many there are, each alone at first.

    Source: Tarjan & van Leeuwen 1984, "Worst-case analysis of set union algorithms" (path halving).
    """

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def find(self, number: int) -> int:
        """The least number of the group."""
        above = self._above
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    def join(self, one: int, two: int) -> None:
        """Make two groups one."""
        low, high = sorted((self.find(one), self.find(two)))
        self._above[high] = low
