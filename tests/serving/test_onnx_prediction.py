"""Rows of a graph go through it together where that leaves little padding."""

from __future__ import annotations

from luthier.serving.onnx_prediction import PADDING, groups_of


def test_each_row_is_in_one_group_and_no_group_is_mostly_padding() -> None:
    lengths = [3, 200, 5, 5, 190, 7, 64, 1, 60, 5, 64]
    groups = groups_of(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert sum(lengths[row] for row in group) >= (1 - PADDING) * longest * len(group)
    assert [1, 4] in groups and [6, 10, 8] in groups


def test_rows_of_one_length_are_one_group_and_none_are_none() -> None:
    assert groups_of([9] * 40) == [list(range(40))]
    assert groups_of([]) == []
