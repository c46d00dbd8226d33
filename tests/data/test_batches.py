"""Which examples make which step."""

from __future__ import annotations

from collections import Counter

import numpy as np

from luthier.data.batches import balanced_order, choose_rows

CLASSES = tuple([0] * 90 + [1] * 8 + [2] * 2)


def test_balanced_epochs_hold_every_class_equally_often() -> None:
    for epoch in range(4):
        drawn = balanced_order(CLASSES, 5, epoch)
        assert len(drawn) == 100
        counts = Counter(CLASSES[position] for position in drawn.tolist())
        assert max(counts.values()) - min(counts.values()) <= 1


def test_over_the_epochs_the_rows_of_a_frequent_class_all_have_their_turn() -> None:
    seen = {position for epoch in range(12) for position in balanced_order(CLASSES, 5, epoch).tolist()}
    assert seen == set(range(100))


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    first = [choose_rows(step, 100, 16, 3, CLASSES).tolist() for step in range(20)]
    assert [choose_rows(step, 100, 16, 3, CLASSES).tolist() for step in reversed(range(20))] == first[::-1]
    assert first != [choose_rows(step, 100, 16, 4, CLASSES).tolist() for step in range(20)]


def test_classes_of_equal_size_are_each_seen_once() -> None:
    assert np.array_equal(np.sort(balanced_order((0, 1) * 20, 1, 0)), np.arange(40))
