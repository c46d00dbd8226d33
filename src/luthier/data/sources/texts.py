"""A folder of texts and documents: one row a file; its sub-folder, where there are some, is its label."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import DataError
from luthier.core.words import plural
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows
from luthier.data.sources.documents import NEEDS, texts_of

ENDINGS = (".txt", ".md", ".markdown", ".rst", ".text", *NEEDS)
FEW_STRAY = 0.05
"""Share of the texts that may lie beside sub-folders which still are labels: a README, notes."""


def read_texts(source: FileOfRows) -> Rows:
    """Read the folder's text files in the order of their names; links are not followed out of it."""
    folder = source.path
    files = texts_in(folder)
    if not files:
        raise DataError(
            f"the folder {folder} holds no train.csv, .tsv, .json or .jsonl, and no text files ({', '.join(ENDINGS)})",
            "give the file itself, or a folder with train, validation and test files, or a folder of texts",
        )
    stray = [path for path in files if path.parent == folder]
    labelled = len(stray) <= FEW_STRAY * len(files)
    rows = source.rows(["text", "file", "label"] if labelled else ["text", "file"])
    if labelled and stray:
        files = [path for path in files if path.parent != folder]
        rows.rejected += [Rejected(str(path), 1, "it lies in no sub-folder, so it has no label", path.name) for path in stray]
        left = f"{plural(len(stray), 'file')} beside the sub-folders left out"
        rows.notes.append(
            (f"{folder}: {left} ({stray[0].name}{', …' if len(stray) > 1 else ''})", "put each into the sub-folder of its label")
        )
    documents = texts_of([path for path in files if path.suffix.lower() in NEEDS])
    for number, path in enumerate(files, 1):
        values = {"file": str(path.relative_to(folder))}
        text, why = next(documents) if path.suffix.lower() in NEEDS else _read_plain(path, source.encoding)
        if text is None:
            rows.rejected.append(Rejected(str(path), number, why, values["file"]))
            continue
        values["text"] = text
        if labelled:
            values["label"] = path.relative_to(folder).parts[0]
        rows.add(number, values)
    if not rows.values:
        raise DataError(f"no text of the folder {folder} can be read: {rows.rejected[0].reason}", "look at its files")
    return rows


def texts_in(folder: Path) -> list[Path]:
    """The texts and documents under a folder, by name; links are left out."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink())


def _read_plain(path: Path, encoding: str) -> tuple[str | None, str]:
    try:
        return FileOfRows(path, encoding).text(), ""
    except DataError as problem:
        return None, problem.message.removeprefix(f"{path} ")
