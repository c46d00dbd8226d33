"""Folders of texts and documents: one row a file, and a bad file costs no more than its row."""

from __future__ import annotations

from pathlib import Path

import docx
import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.sources import documents
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from tests.data.test_malformed import sentence


def write_pdf(path: Path, text: str) -> None:
    writer = PdfWriter()
    page = writer.add_blank_page(400, 400)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F"): writer._add_object(font)})})
    content = DecodedStreamObject()
    content.set_data(f"BT /F 12 Tf 20 300 Td ({text}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    writer.write(path)


def write_docx(path: Path, text: str) -> None:
    made = docx.Document()
    made.add_paragraph(text)
    made.add_table(1, 2).rows[0].cells[1].text = "a cell"
    made.save(str(path))


def test_each_kind_of_document_gives_its_text(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "The licence ends.")
    write_docx(tmp_path / "b.docx", "The licence begins.")
    (tmp_path / "c.html").write_text(
        "<html><head><title>no</title><script>evil()</script></head><body><p>One  &amp; two</p><p>three</p></body></html>"
    )
    (tmp_path / "d.md").write_text("# Plain\n")
    found = read(tmp_path)
    assert [row["text"] for row in found.values] == [
        "The licence ends.",
        "The licence begins.\na cell",
        "One & two\n\nthree",
        "# Plain\n",
    ]
    assert [row["file"] for row in found.values] == ["a.pdf", "b.docx", "c.html", "d.md"]


def test_sub_folders_are_labels_and_the_rows_can_be_taken_in(tmp_path: Path) -> None:
    for label, start in (("lease", 0), ("sale", 100)):
        (tmp_path / label).mkdir()
        for number in range(start, start + 20):
            (tmp_path / label / f"{number}.txt").write_text(sentence(number))
        write_docx(tmp_path / label / "last.docx", sentence(start + 50))
    found = load_dataset(Data(path=str(tmp_path)))
    assert found.labels == ("lease", "sale")
    assert found.count == 42
    assert found.spec.input == ("text",)
    with pytest.raises(DataError, match="is not the file this experiment was made for"):
        (tmp_path / "sale" / "100.txt").write_text("changed")
        load_dataset(found.spec)


def test_a_document_that_cannot_be_read_is_set_aside_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 and no more")
    (tmp_path / "b.docx").write_bytes(b"PK\x03\x04 no zip")
    (tmp_path / "c.html").write_bytes(b"<p>caf\xe9</p>")
    (tmp_path / "d.html").write_text("<p>fine</p>")
    (tmp_path / "e.html").write_text("<script>only()</script>")
    found = read(tmp_path)
    assert [row["file"] for row in found.values] == ["d.html"]
    assert [Path(row.file).name for row in found.rejected] == ["a.pdf", "b.docx", "c.html", "e.html"]
    assert "no text" in found.rejected[-1].reason


def test_a_document_that_ends_or_holds_up_its_reader_costs_only_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "dies", "c", "hangs", "e"):
        (tmp_path / f"{name}.html").write_text(f"<p>{name}</p>")
    broken = documents.READER.replace(
        "    try:\n        kind",
        "    if 'dies' in path: import os; os.abort()\n    if 'hangs' in path: import time; time.sleep(99)\n    try:\n        kind",
    )
    assert broken != documents.READER
    monkeypatch.setattr(documents, "READER", broken)
    monkeypatch.setattr(documents, "SECONDS", 5)
    found = read(tmp_path)
    assert [row["text"] for row in found.values] == ["a", "c", "e"]
    assert [Path(row.file).stem for row in found.rejected] == ["dies", "hangs"]
