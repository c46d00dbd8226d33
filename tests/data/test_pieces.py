"""Texts in pieces: what an example knows of its text, and when the text is read."""

from __future__ import annotations

from luthier.core.types import Record
from luthier.data.pieces import Pieces
from luthier.models.masked import make_tokenizer
from tests.conftest import rows

TEXTS = [row["text"] for row in rows()]


def test_a_pass_over_the_pieces_reads_no_text_and_each_says_its_own_when_asked() -> None:
    long, short = " ".join(TEXTS), TEXTS[0]
    read: list[int] = []

    def text_of(record: Record) -> str:
        read.append(record.row)
        return record.text(("text",))

    records = [Record(number, {"text": text}) for number, text in enumerate([short, long], 1)]
    pieces = Pieces(records, text_of, make_tokenizer(TEXTS, 400), 16)
    assert len(pieces) > 10
    read.clear()
    assert sum(example.size for example in pieces) == pieces.sizes.sum()
    assert not read  # a file would be opened, and read whole, for each of its pieces
    first, *others = pieces
    assert first.facts["read_text"]() == short
    assert "".join(piece.facts["read_text"]() for piece in others).replace(" ", "") == long.replace(" ", "")
    assert set(read) == {1, 2}
