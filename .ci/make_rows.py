"""Write a few rows in every format that an extra reads: `python .ci/make_rows.py SOURCE.csv FOLDER`."""

import csv
import sys
import zipfile
from pathlib import Path

import docx
import pyarrow
import pyarrow.parquet
from PIL import Image
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def write_workbook(path: Path, rows: list[list[str]]) -> None:
    """The smallest workbook: one sheet of texts."""
    cells = "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in row) + "</row>" for row in rows
    )  # fmt: skip
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}"><Relationship Id="a" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>')  # fmt: skip
        book.writestr("xl/workbook.xml", f'<workbook xmlns="{SHEETS}" xmlns:r="{OFFICE}"><sheets><sheet name="Rows" sheetId="1" r:id="a"/></sheets></workbook>')  # fmt: skip
        book.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}"><Relationship Id="a" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>')  # fmt: skip
        book.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{SHEETS}"><sheetData>{cells}</sheetData></worksheet>')


def write_pdf(path: Path, said: str) -> None:
    """A page with one line of text."""
    writer = PdfWriter()
    page = writer.add_blank_page(width=300, height=300)
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"), NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 12 Tf 20 200 Td ({said}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(stream)
    writer.write(path)


def write_all(source: Path, folder: Path) -> None:
    """The same rows as CSV, Parquet, a workbook, documents, and images of two colours."""
    with source.open(newline="") as file:
        rows = [[row["text"], row["sentiment"]] for row in csv.DictReader(file)][::12]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "sentiment"], *rows])
    rows = [["".join(letter for letter in text if letter.isalnum() or letter in " .,"), label] for text, label in rows][:80]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("text", "sentiment"))}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    write_workbook(folder / "rows.xlsx", [["text", "sentiment"], *rows])
    for number, (said, label) in enumerate(rows):
        for kind in ("texts", "pictures"):
            (folder / kind / label).mkdir(parents=True, exist_ok=True)
        path = folder / "texts" / label / f"{number}.{'pdf' if number % 2 else 'docx'}"
        if number % 2:
            write_pdf(path, said)
        else:
            document = docx.Document()
            document.add_paragraph(said)
            document.save(str(path))
        image = Image.new("RGB", (16, 16), (number * 3, 80, 200 if label == "positive" else 20))
        image.putpixel((number % 16, number // 16), (255, 255, 255))
        image.save(folder / "pictures" / label / f"{number}.png")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), Path(sys.argv[2]))
