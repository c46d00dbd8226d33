"""What word vectors know: nearest words, analogies, similarities, a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.randomness import mix
from luthier.evaluation.words import (
    Words,
    answer_analogies,
    compare_similarities,
    draw_map,
    own_questions,
    read_questions,
    read_similarities,
)

PLANE = Words.of(["man", "woman", "king", "queen", "stone"], np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [-1, 0, 0.0]]))


def test_the_nearest_words_come_with_their_cosines_and_without_those_left_out() -> None:
    found = PLANE.nearest(np.array([2.0, 0, 0]), 3, [0])
    assert [word for word, _ in found] == ["woman", "king", "queen"]
    assert found[0][1] == pytest.approx(2**-0.5)
    assert len(PLANE.nearest(np.ones(3), 50)) == 5


def test_analogies_are_counted_by_section_where_all_words_have_vectors(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text(": family\nMan King Woman Queen\nman woman king queen\n: other\nman king stone queen\nman king woman mountain\n")
    questions = read_questions(file)
    assert list(questions) == ["family", "other"]
    assert answer_analogies(PLANE, questions, lowercase=True) == [("family", 2, 2, 2), ("other", 2, 1, 1)]
    assert answer_analogies(PLANE, questions, lowercase=False)[0] == ("family", 2, 1, 1)
    file.write_text("man king woman\n")
    with pytest.raises(DataError, match=r"line 1: .* holds 3 words"):
        read_questions(file)
    assert all(len({*each}) == 4 or each[0] == each[2] or len(each) == 4 for asked in own_questions().values() for each in asked)


def test_similarities_are_compared_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("one,two,score\nman,woman,9\nman,queen,8\nman,stone,1\nman,mountain,5\n")
    rank, count = compare_similarities(PLANE, read_similarities(file), lowercase=True)
    assert (rank, count) == (pytest.approx(1.0), 3)
    file.write_text("one,two,score\nman,woman\n")
    with pytest.raises(DataError, match="line 2"):
        read_similarities(file)


def test_a_map_finds_clusters_and_is_the_same_each_time() -> None:
    centres = np.eye(4)[np.arange(80) % 4] * 5
    noise = (mix("noise", np.arange(320)) % np.uint64(1000)).astype(float).reshape(80, 4) / 1000
    words = Words.of([f"w{number}" for number in range(80)], centres + noise)
    drawn = draw_map(words, 0, 80, 4)
    assert drawn == draw_map(words, 0, 80, 4)
    assert sorted(len(members) for _, members in drawn) == [20] * 4
    for _, members in drawn:
        assert len({int(word[1:]) % 4 for word, _, _ in members}) == 1
        assert all(abs(x) <= 1 and abs(y) <= 1 for _, x, y in members)
