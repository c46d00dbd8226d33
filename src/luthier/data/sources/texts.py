"""A folder of texts: one row a file; its sub-folder, where there are some, is its label."""

from __future__ import annotations

from luthier.core.errors import DataError
from luthier.data.rows import Reading, Rejected, Rows

ENDINGS = (".txt", ".md", ".markdown", ".rst", ".text")


def read_texts(reading: Reading) -> Rows:
    """Read the folder's text files in the order of their names; links are not followed out of it."""
    folder = reading.path
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink())
    if not files:
        raise DataError(
            f"the folder {folder} holds no train.csv, .tsv, .json or .jsonl, and no text files ({', '.join(ENDINGS)})",
            "give the file itself, or a folder with train, validation and test files, or a folder of texts",
        )
    labelled = all(len(path.relative_to(folder).parts) > 1 for path in files)
    found = Rows(columns=["text", "file", "label"] if labelled else ["text", "file"])
    for number, path in enumerate(files, 1):
        values = {"file": str(path.relative_to(folder))}
        try:
            values["text"] = Reading(path, reading.encoding).text()
        except DataError as problem:
            found.rejected.append(Rejected(str(path), number, problem.message.removeprefix(f"{path} "), values["file"]))
            continue
        if labelled:
            values["label"] = path.relative_to(folder).parts[0]
        found.add(number, values)
    if not found.values:
        raise DataError(f"no text of the folder {folder} can be read: {found.rejected[0].reason}", "look at its files")
    return found
