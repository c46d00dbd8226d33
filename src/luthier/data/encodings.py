"""Choose the encoding of a text file, and say which lines do not fit it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from luthier.core.errors import DataError
from luthier.data.archives import open_bytes

FEW_BAD = 0.001
"""Share of rows with invalid bytes up to which they are set aside; above it, the encoding is taken to be another one."""


def choose_encoding(start: bytes, path: Path, asked: str) -> str:
    """What the bytes are read as: a byte order mark wins over what was asked.

    Args:
        start: the file's first bytes.
        path: the file, for the message.
        asked: `data.encoding`.

    Raises:
        DataError: there is no such encoding of texts, or it is UTF-16 without a mark.
    """
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        "".encode(asked)
    except (LookupError, UnicodeError):  # none of this name, or one that is for no texts, such as hex
        raise DataError(
            f"there is no encoding of texts called {asked!r}", "set data.encoding to utf-8, latin-1, cp1252, utf-16-le, utf-16-be, …"
        ) from None
    if codecs.lookup(asked).name == "utf-16":  # with a mark it would have been taken above
        raise DataError(
            f"{path} is not {asked}: it does not begin with the byte order mark of one",
            "leave data.encoding out where the file is UTF-8, or name the order: --set data.encoding=utf-16-le (or utf-16-be)",
        )
    if asked.lower().replace("_", "-") not in ("utf-8", "utf8"):
        return asked
    if start.count(b"\0") > len(start) // 4:
        raise DataError(f"{path} looks like UTF-16 without its byte order mark", "name it: --set data.encoding=utf-16-le (or utf-16-be)")
    return "utf-8-sig"


def error_handling(path: Path, encoding: str) -> str:
    """How invalid bytes are met, as in `open`: strictly where there are none, and so that their rows can be found where there are few.

    Args:
        path: the file.
        encoding: how its bytes are read.

    Raises:
        DataError: there are many; it is another encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_bytes(path) as handle:
        try:
            for piece in iter(lambda: handle.read(1 << 20), b""):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
            return "strict"
        except UnicodeDecodeError:
            pass
    with open_bytes(path) as handle:
        raw = handle.read()
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as problem:
        line = raw[: problem.start].count(b"\n") + 1
        bad = sum(1 for _ in _bad_lines(raw)) if encoding == "utf-8-sig" else 0
        if 0 < bad <= FEW_BAD * raw.count(b"\n"):
            return "surrogateescape"
        raise DataError(
            f"{path}, line {line}, byte {problem.start}: {raw[problem.start : problem.start + 1]!r} is not {encoding.removesuffix('-sig')}",
            "save the file as UTF-8, or name its encoding: --set data.encoding=cp1252",
        ) from None
    return "strict"


def _bad_lines(raw: bytes) -> Iterator[int]:
    for index, line in enumerate(raw.split(b"\n")):
        try:
            line.decode()
        except UnicodeDecodeError:
            yield index
