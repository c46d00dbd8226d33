"""Excel workbooks: every cell becomes the text that the sheet shows, and what was decided is said."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from tests.data.test_malformed import rows, sentence

pytest.importorskip("python_calamine")
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
DATE = 1
"""The style of a date in the workbooks of `workbook`."""


def workbook(path: Path, merged: str = "", hidden: tuple[str, ...] = (), **sheets: list[list[Any]]) -> Path:
    """Write a workbook as Excel does: text cells, numbers, dates `(number, DATE)`, formulas `("=A1", saved result or None)`; None is no cell."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        listed = "".join(
            f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"{" state=" + chr(34) + "hidden" + chr(34) if name in hidden else ""}/>'
            for number, name in enumerate(sheets, 1)
        )
        links = "".join(
            f'<Relationship Id="r{number}" Type="{LINKS}/worksheet" Target="worksheets/sheet{number}.xml"/>'
            for number in range(1, len(sheets) + 1)
        )
        styles = f'<Relationship Id="s" Type="{LINKS}/styles" Target="styles.xml"/>'
        package = "http://schemas.openxmlformats.org/package/2006/relationships"
        book.writestr("_rels/.rels", f'<Relationships xmlns="{package}"><Relationship Id="r" Type="{LINKS}/officeDocument" Target="xl/workbook.xml"/></Relationships>')  # fmt: skip
        book.writestr("xl/workbook.xml", f'<workbook {MAIN} xmlns:r="{LINKS}"><sheets>{listed}</sheets></workbook>')
        book.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}">{links}{styles}</Relationships>')
        book.writestr(
            "xl/styles.xml", f'<styleSheet {MAIN}><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>'
        )
        for number, cells in enumerate(sheets.values(), 1):
            body = "".join(
                f'<row r="{line}">{"".join(_cell(line, place, cell) for place, cell in enumerate(row))}</row>'
                for line, row in enumerate(cells, 1)
            )
            merge = f'<mergeCells count="1"><mergeCell ref="{merged}"/></mergeCells>' if merged and number == 1 else ""
            book.writestr(f"xl/worksheets/sheet{number}.xml", f"<worksheet {MAIN}><sheetData>{body}</sheetData>{merge}</worksheet>")
    return path  # fmt: skip


def _cell(line: int, place: int, cell: Any) -> str:
    where = f'r="{chr(65 + place)}{line}"'
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return f'<c {where} t="b"><v>{int(cell)}</v></c>'
    if isinstance(cell, tuple) and str(cell[0]).startswith("="):
        return f"<c {where}><f>{cell[0][1:]}</f>{'' if cell[1] is None else f'<v>{cell[1]}</v>'}</c>"
    if isinstance(cell, tuple):
        return f'<c {where} s="{cell[1]}"><v>{cell[0]}</v></c>'
    if isinstance(cell, int | float):
        return f"<c {where}><v>{cell}</v></c>"
    return f'<c {where} t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>'


def make_plain(count: int = 60) -> list[list[Any]]:
    return [["text", "label"], *([row["text"], row["label"]] for row in rows(count))]


def test_cells_become_the_texts_that_the_sheet_shows(tmp_path: Path) -> None:
    head = ["text", "code", "number", "share", "day", "sure", "sum", "gap"]
    path = workbook(tmp_path / "rows.xlsx", Data=[head, [" a & b ", "007", 7, 0.1 + 0.2, (45300, DATE), True, ("=1+1", 2), None], [], ["c", "008", 8, 1.5, (45301, DATE), False, ("=1+2", 3), "x"]])  # fmt: skip
    found = read(path)
    assert found.columns == head
    assert found.values == [
        {"text": " a & b ", "code": "007", "number": "7", "share": "0.3", "day": "2024-01-09", "sure": "TRUE", "sum": "2", "gap": ""},
        {"text": "c", "code": "008", "number": "8", "share": "1.5", "day": "2024-01-10", "sure": "FALSE", "sum": "3", "gap": "x"},
    ]
    assert found.lines == [2, 4]  # the rows of the sheet: the third one is empty


def test_a_workbook_gives_the_same_run_as_the_same_rows_in_csv(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows.xlsx", Data=make_plain())
    found = load_dataset(Data(path=str(path)))
    assert (found.count, found.labels, found.spec.input, found.spec.target) == (60, ("a", "b"), ("text",), "label")
    assert sentence(3) in [record.values["text"] for part in found.records.values() for record in part]


def test_the_first_sheet_with_a_table_is_read_the_others_are_named_and_can_be_asked_for(tmp_path: Path) -> None:
    notes, other = [["About this file"], ["by us"]], [["text", "label"], ["one", "x"], ["two", "y"]]
    path = workbook(tmp_path / "rows.xlsx", hidden=("Secret",), Secret=other, About=notes, Data=make_plain(), Old=other)
    found = load_dataset(Data(path=str(path)), checks=())
    assert found.count == 60
    said = next(one for one in found.findings if "sheet" in one.claim)
    assert "the sheet 'Data' is read; there is also 'About' (2 rows), 'Old' (3 rows)" in said.claim
    assert [row["text"] for row in read(path, sheet="Old").values] == ["one", "two"]
    assert [row["text"] for row in read(path, sheet="4").values] == ["one", "two"]
    with pytest.raises(DataError, match=r"no sheet 'old'[\s\S]*did you mean 'Old'"):
        read(path, sheet="old")


def test_merged_cells_and_formulas_without_a_result_are_said(tmp_path: Path) -> None:
    cells = [[*row, None] for row in make_plain()]
    cells[0][2] = "score"
    cells[2][1] = None
    cells[1][2] = ("=1+1", None)
    found = read(workbook(tmp_path / "rows.xlsx", merged="B2:B3", Data=cells))
    assert found.values[1]["label"] == "a"
    assert [
        "1 cell was filled with the value of the merged cell" in claim or "formulas without a saved result" in claim
        for claim, _ in found.notes
    ] == [True, True]


def test_a_label_column_of_formulas_that_nobody_saved_is_refused_with_what_to_do_about_it(tmp_path: Path) -> None:
    cells = [[row[0], row[1] if place == 0 else ("=A1", None)] for place, row in enumerate(make_plain())]
    with pytest.raises(
        DataError,
        match=r"the column 'label' is empty in all[\s\S]*formulas without a saved result: open it in a spreadsheet program and save it",
    ):
        load_dataset(Data(path=str(workbook(tmp_path / "rows.xlsx", Data=cells))), checks=())


def test_a_workbook_that_cannot_be_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    titled = workbook(tmp_path / "titled.xlsx", Data=[["Report of May", None], [], *make_plain()])
    whole = workbook(tmp_path / "whole.xlsx", Data=make_plain()).read_bytes()
    for name, content, words in (
        ("old.xlsx", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "an old .xls workbook, or one with a password"),
        ("text.xlsx", b"text,label\n", "not a sound Excel workbook"),
        ("cut.xlsx", whole[: len(whole) // 2], "not a sound Excel workbook"),
        ("empty.xlsx", b"", "is empty"),
        ("named.csv", whole, r"is compressed \(zip\)[\s\S]*it is an Excel workbook: name it named\.xlsx"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            read(tmp_path / name)
        assert caught.value.remedy
    with pytest.raises(DataError, match=r"row 1: it holds one cell \('Report of May'\)[\s\S]*delete what stands above"):
        read(titled)


def test_without_the_library_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "rows.xlsx", Data=make_plain())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs python-calamine[\s\S]*pip install 'luthier\[excel\]'"):
        read(path)
