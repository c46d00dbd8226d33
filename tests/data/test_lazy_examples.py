"""Sequences whose examples are made when they are asked for."""

from __future__ import annotations

import pytest

from luthier.core.types import Example, Record
from luthier.data.lazy_examples import Joined, LazyExamples


def example(number: int) -> Example:
    return Example(number, {"tokens": [number]}, None, Record(number + 1, {}, ""), 1, 1.0)


class Numbers(LazyExamples):
    """So many examples; which were made is kept."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.made: list[int] = []

    def __len__(self) -> int:
        return self.count

    def make(self, number: int) -> Example:
        self.made.append(number)
        return example(number)


def test_only_what_is_asked_for_is_made_and_it_is_what_a_list_would_give() -> None:
    rows, plain = Numbers(5), [example(number) for number in range(5)]
    assert (rows[3], rows[-1], rows[1:5:2], rows[::-1]) == (plain[3], plain[-1], plain[1:5:2], plain[::-1])
    assert rows.made == [3, 4, 1, 3, 4, 3, 2, 1, 0]
    assert list(rows) == plain
    for outside in (5, -6):
        with pytest.raises(IndexError):
            rows[outside]


def test_two_sequences_are_one_and_none_is_made_into_a_list() -> None:
    first, second = Numbers(2), Numbers(3)
    both = Joined(first, second)
    assert len(both) == 5
    assert [both[1].index, both[2].index, both[-1].index] == [1, 0, 2]
    assert (first.made, second.made) == ([1], [0, 2])
    assert [each.index for each in both] == [0, 1, 0, 1, 2]
