"""Plain text to learn a language from: a file or a folder of files, each a document; few documents become passages, so that they can be split."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luthier.core.errors import DataError, NoRows
from luthier.core.words import plural
from luthier.data.row_files import FileOfRows
from luthier.data.rows import HALF, Rejected, Rows
from luthier.data.sources.documents import NEEDS, texts_of
from luthier.data.sources.texts import texts_in

FEWEST_DOCUMENTS = 30
"""From so many on each document is a row, and documents are split; fewer are cut into passages."""
FEWEST_CHARACTERS = 10_000
"""Of all documents together; of less nothing would be left to test on."""
PASSAGES = 200
"""Into which few documents are cut together, about: a test of 20 % then has 40 rows for its interval."""
SHORTEST, LONGEST = 250, 32_000
"""Characters of a passage, about."""
POSITION = "position"
"""The column that says where a passage stands in its document, from 0 to 1: the last passages of each are tested, those before them validate."""


@dataclass(frozen=True)
class FileText(Mapping[str, Any]):
    """A row whose text stays in its file until it is asked for, so that memory does not grow with the corpus.

    Args:
        path: a file in UTF-8.
        start: its first byte.
        stop: the byte behind its last.
        more: the other columns.
    """

    path: Path
    start: int
    stop: int
    more: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name != "text":
            return self.more[name]
        with self.path.open("rb") as file:
            file.seek(self.start)
            return _unix(file.read(self.stop - self.start).decode("utf-8"))

    def __iter__(self) -> Iterator[str]:
        yield "text"
        yield from self.more

    def __len__(self) -> int:
        return 1 + len(self.more)


def _unix(text: str) -> str:
    """The text with one sign for the end of a line: the two of other systems would be learned as such."""
    return text.replace("\r\n", "\n")


@dataclass(frozen=True)
class Document:
    """A text as it was read.

    Args:
        path: its file.
        text: what it says; None where it can be read again from the file, in UTF-8.
        characters: of it.
        size: bytes of the file.
    """

    path: Path
    text: str | None
    characters: int
    size: int

    def row(self, more: Mapping[str, Any], span: tuple[int, int] | None = None) -> Mapping[str, Any]:
        """The document, or a part of it, as a row.

        Args:
            more: the other columns.
            span: from where to where, in characters of `text`, or in bytes of the file; None takes all.
        """
        if self.text is None:
            return FileText(self.path, *(span or (0, self.size)), more)
        return {"text": self.text[slice(*span)] if span else self.text, **more}


def read_passages(source: FileOfRows) -> Rows:
    """Read a text file, or a folder of them in the order of their names.

    Raises:
        DataError: there is no text, or too little of it.
    """
    path = source.path
    files = texts_in(path) if path.is_dir() else [path]
    rows = source.rows(["text", "file"])
    documents = list(_documents(files, path, source.encoding, rows.rejected))
    total = sum(document.characters for document in documents)
    if total < FEWEST_CHARACTERS:
        first = (
            f"; the first of {len(rows.rejected)} set aside is {Path(rows.rejected[0].file).name}: {rows.rejected[0].reason}"
            if rows.rejected
            else ""
        )
        raise DataError(
            f"{path} holds {plural(len(documents), 'document')} with {total:,} characters: of fewer than {FEWEST_CHARACTERS:,} nothing would be left to test on{first}",
            "give more text",
        )
    root = path if path.is_dir() else path.parent
    names = [str(document.path.relative_to(root)) for document in documents]
    if len(documents) >= FEWEST_DOCUMENTS:
        for number, (document, name) in enumerate(zip(documents, names, strict=True), 1):
            rows.add(number, cast(dict[str, Any], document.row({"file": name})))
        return rows
    rows.columns.append(POSITION)
    length = min(max(total // PASSAGES, SHORTEST), LONGEST)
    for document, name in zip(documents, names, strict=True):
        spans = _spans(document, length)
        for index, span in enumerate(spans):
            row = document.row({"file": name, POSITION: (index + 0.5) / len(spans)}, span)
            rows.add(rows.met + 1, cast(dict[str, Any], row))
    rows.notes.append(
        (
            f"{plural(len(documents), 'document')}: too few to test on some of them, so each is cut into passages of about {length:,} characters, and its last ones are tested",
            f"give {FEWEST_DOCUMENTS} documents or more to test on whole ones",
        )
    )
    return rows


def _documents(files: Sequence[Path], root: Path, encoding: str, rejected: list[Rejected]) -> Iterator[Document]:
    """The files that hold text; the others are set aside."""
    extracted = texts_of([path for path in files if path.suffix.lower() in NEEDS])
    for number, path in enumerate(files, 1):
        why, document = "", None
        if path.suffix.lower() in NEEDS:
            text, why = next(extracted)
            document = Document(path, text, len(text), 0) if text is not None else None
        else:
            try:
                document = _read_plain(FileOfRows(path, encoding))
            except DataError as problem:
                if path == root:
                    raise DataError(problem.message, "give some text" if isinstance(problem, NoRows) else problem.remedy) from None
                why = problem.message.removeprefix(f"{path} ")
        if document is None:
            rejected.append(Rejected(str(path), number, why, path.name))
        else:
            yield document


def _read_plain(source: FileOfRows) -> Document:
    """A text file, read a piece at a time; its text is kept only where the bytes are not simply UTF-8.

    Raises:
        DataError: it is empty, compressed, binary, or in another encoding.
    """
    characters = 0
    with source.stream() as stream, source.path.open("rb") as raw:
        simple = stream.encoding.lower().startswith("utf-8") and raw.read(3) != b"\xef\xbb\xbf"
        for piece in iter(lambda: stream.read(1 << 20), ""):
            characters += len(piece)
            simple = simple and "\0" not in piece and not HALF.search(piece)
    size = source.path.stat().st_size
    return Document(source.path, None if simple else _unix(source.text()), characters, size)


def _spans(document: Document, length: int) -> list[tuple[int, int]]:
    """Where a document is cut: at the end of the first line behind so many characters, else at a space, else right there."""
    if document.text is not None:
        return _cuts(document.text, length)
    with document.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return _cuts(whole, math.ceil(length * document.size / max(document.characters, 1)))


def _cuts(whole: Any, length: int) -> list[tuple[int, int]]:
    """Parts of about this length, of a text or of the bytes of one."""
    end = len(whole)
    count, cuts = max(1, round(end / length)), [0]
    for index in range(1, count):
        cut = _cut(whole, max(round(index * end / count), cuts[-1] + 1), length // 2)
        if cuts[-1] < cut < end:
            cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], end], strict=True))


def _cut(whole: Any, start: int, reach: int) -> int:
    """The first place from here on, within reach, where a line ends, or a word; never inside a character."""
    signs: Any = ("\n", " ") if isinstance(whole, str) else (b"\n", b" ")
    for sign in signs:
        at = whole.find(sign, start, start + reach)
        if at >= 0:
            return at + 1
    while not isinstance(whole, str) and start < len(whole) and whole[start] & 0xC0 == 0x80:
        start += 1
    return start
