"""Read a file or folder of rows: choose its format, and look at what it holds."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import DataError, nearest
from luthier.data import SOURCES
from luthier.data.archives import TEXT_FORMATS, choose_member, is_packed, on_disk
from luthier.data.row_files import ENDINGS, UNREAD, FileOfRows, format_of, names_table
from luthier.data.rows import Rejected, Rows, unfit_reason
from luthier.data.sources.images import describe_images, image_column, images_of
from luthier.data.sources.texts import texts_in
from luthier.data.spans import describe_tokens


def read(
    path: Path,
    format: str | None = None,
    encoding: str = "utf-8",
    header: bool | None = None,
    most: int = 0,
    seed: int = 0,
    sheet: str | None = None,
) -> Rows:
    """Read a file or folder of rows.

    Args:
        path: the file, a zip that holds one, a table in a zip (`reviews.zip/train.csv`), or a folder of texts or of a saved data set.
        format: a name from `data.SOURCES`; None takes it from the file's ending.
        encoding: how its bytes are to be read; a byte order mark is honoured.
        header: whether line 1 names the columns; None looks at the values.
        most: rows that are kept, evenly by chance, of a file that holds more; 0 keeps all.
        seed: of that chance.
        sheet: of a workbook, by its name or its number from 1; None takes the first that holds rows.

    Raises:
        DataError: the file is missing, empty, in another encoding, or not of its format.
    """
    path = choose_member(path, ENDINGS)
    there = on_disk(path)
    if not there.exists():
        beside = [entry.name for entry in path.parent.iterdir() if names_table(entry)] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}", nearest(path.name, beside) if beside else "check the path")
    if path.is_dir():
        format = format or _folder_format(path)
    elif not there.is_file():
        raise DataError(f"{path} is not a file", "give a file of rows, or a folder with train, validation and test files")
    name = format or format_of(path) or format_of(there)
    if name is None:
        ending = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
        remedy = UNREAD.get(path.suffix.lower()) or f"set data.format to one of {', '.join(SOURCES)}"
        raise DataError(f"{path}: the ending {ending!r} names no format that is read", UNREAD[".tar"] if ".tar" in ending else remedy)
    if sheet is not None and name != "xlsx":
        raise DataError(f"{path} has no sheets: only workbooks (.xlsx) do", "leave data.sheet out")
    if is_packed(path) and name not in (*TEXT_FORMATS, "npz"):
        raise DataError(f"{path}: {name} files are not read from compressed ones", "unpack it, and give the file itself")
    rows = reject_unreadable_rows(SOURCES[name](FileOfRows(path, encoding, header, most, seed, sheet)), str(path))
    rows = describe_tokens(rows, str(path))
    if path.is_dir() or there != path:
        return rows
    column = image_column(rows, path.parent)
    return describe_images(rows, column, path.parent, str(path)) if column else rows


def _folder_format(folder: Path) -> str:
    if (folder / "state.json").exists() or (folder / "dataset_info.json").exists():
        return "saved"
    if any(folder.glob("*.parquet")):
        return "parquet"
    return "images" if len(images_of(folder)) > len(texts_in(folder)) else "texts"  # a picture beside the contracts changes nothing


def reject_unreadable_rows(rows: Rows, path: str) -> Rows:
    """Set aside rows that are too long or that no text can hold.

    Raises:
        DataError: nothing is left.
    """
    rows.thin()
    result = Rows(columns=rows.columns, header=rows.header, rejected=rows.rejected, notes=rows.notes)
    for line, values in zip(rows.lines, rows.values, strict=True):
        reason = unfit_reason(values)
        if reason:
            result.rejected.append(Rejected(path, line, reason, ascii(values)[:200]))
        else:
            result.add(line, values)
    if not result.values:
        first = f"; line {result.rejected[0].line}: {result.rejected[0].reason}" if result.rejected else ""
        raise DataError(f"{path} holds no rows{first}", "give a file with at least 30 rows")
    result.met = rows.met
    return result
