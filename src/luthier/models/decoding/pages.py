"""The memory of keys and values: pages of sixteen tokens that requests hold, and that prompts which begin alike share."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

PAGE = 16
"""Tokens of a page: as many numbers as a vector register of a processor holds."""


@dataclass
class _Page:
    """A page's place in the sharing: who holds it, and which tokens it holds."""

    holders: int = 0
    serial: int = -1
    key: tuple[int, tuple[int, ...]] | None = None


class PagePool:
    """Says which pages are whose, and which tokens' keys and values they hold. The numbers themselves lie with the step.

    A full page is known by its tokens and by the page before it, so what it holds can only be found by a text that begins the same way. Pages that nobody holds keep their
    tokens until they are needed for others; those unused for longest go first.

    Args:
        count: all pages.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pages: defaultdict[int, _Page] = defaultdict(_Page)
        self._empty = list(range(count - 1, -1, -1))
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._serials = 0

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._empty) + len(self._idle)

    @property
    def kept(self) -> int:
        """Pages that nobody holds and that still know their tokens."""
        return len(self._idle)

    def find(self, tokens: Sequence[int]) -> list[int]:
        """The pages that hold how a text begins; at least one token is left to compute.

        Args:
            tokens: of the text.
        """
        results: list[int] = []
        parent = -1
        for start in range(0, (len(tokens) - 1) // PAGE * PAGE, PAGE):
            number = self._known.get((parent, tuple(tokens[start : start + PAGE])))
            if number is None:
                break
            results.append(number)
            parent = self._pages[number].serial
        return results

    def take(self, shared: Sequence[int], new: int) -> list[int] | None:
        """Hold pages that are known, and new ones behind them; None where there are too few, and nothing was taken.

        Args:
            shared: as found.
            new: how many more.
        """
        if new > self.free - sum(number in self._idle for number in shared):
            return None
        for number in shared:
            self._pages[number].holders += 1
            self._idle.pop(number, None)
        return [*shared, *(self._take_new() for _ in range(new))]

    def _take_new(self) -> int:
        if self._empty:
            number = self._empty.pop()
        else:
            number, _ = self._idle.popitem(last=False)
            self._forget(number)
        self._pages[number].holders, self._pages[number].serial = 1, -1
        return number

    def _forget(self, number: int) -> None:
        page = self._pages[number]
        if page.key is not None:
            self._known.pop(page.key, None)
        page.key = None

    def remember(self, pages: Sequence[int], index: int, tokens: Sequence[int]) -> None:
        """Make a page known: its tokens are computed and will not change.

        Args:
            pages: of the text, those before this one made known already.
            index: of the page among them.
            tokens: of this page, all of them.
        """
        parent = self._pages[pages[index - 1]].serial if index else -1
        page = self._pages[pages[index]]
        if page.key is not None or (index and parent < 0):
            return
        key = (parent, tuple(tokens))
        if key in self._known:  # two texts with the same beginning were computed at the same time: what follows is known behind the other
            page.serial = self._pages[self._known[key]].serial
            return
        self._serials += 1
        page.key, page.serial = key, self._serials
        self._known[key] = pages[index]

    def release(self, pages: Sequence[int]) -> None:
        """Hold pages no more.

        Args:
            pages: as taken, in the order of the text.
        """
        for number in reversed(pages):  # ends of texts are forgotten before their beginnings
            page = self._pages[number]
            page.holders -= 1
            if page.holders:
                continue
            if page.key is None:
                self._empty.append(number)
            else:
                self._idle[number] = None
