"""Whether line 1 of a table names the columns, where that can only be guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.data.read_rows import read


def test_a_first_line_of_sentences_that_was_taken_for_names_is_said_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("Go on.\tMach weiter.\n" + "".join(f"I see {n} of them.\tIch sehe {n} davon.\n" for n in range(60)))
    ((claim, remedy),) = read(path).notes
    assert "line 1 was taken for the names of the columns, and 'Go on.' looks like a text" in claim
    assert "data.header=false" in remedy
    assert read(path, header=False).notes == []
    assert read(path, header=True).notes == []
    assert len(read(path, header=False).values) == 61


@pytest.mark.parametrize("head", ["en\tde", "the source text\tthe target text", "Is it good?\tlabel"])
def test_names_of_columns_are_not_said_to_be_sentences(tmp_path: Path, head: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(head + "\n" + "".join(f"I see {n} of them.\tIch sehe {n} davon.\n" for n in range(60)))
    assert read(path).notes == []
