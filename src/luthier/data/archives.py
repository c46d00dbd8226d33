"""Tables inside compressed files: gzip and zip, read a piece at a time and never written to the disk.

A table inside a zip is named like a file inside a folder: `reviews.zip/train.csv`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

from luthier.core.errors import DataError, nearest

TEXT_FORMATS = ("csv", "tsv", "json", "jsonl", "conll")
"""What may lie in a compressed file; the other formats are compressed by themselves, or need the whole file on the disk."""
MOST_TIMES = 200
"""How many times its size a compressed file may become; text becomes 3 to 20 times as large, a decompression bomb a thousand times."""
ALWAYS = 64 << 20
"""Bytes that may be unpacked whatever the ratio: a small table of equal rows is no bomb."""
LARGEST = 64 << 30
"""Bytes that may be unpacked at all."""


def on_disk(path: Path) -> Path:
    """The file that lies on the disk: of `reviews.zip/train.csv` it is `reviews.zip`, of `scans.npz/test` it is `scans.npz`."""
    with contextlib.suppress(OSError):  # a text that is too long for a name
        if path.exists():
            return path
        return next((parent for parent in path.parents if parent.suffix.lower() in (".zip", ".npz") and parent.is_file()), path)
    return path


def is_packed(path: Path) -> bool:
    """Whether the table is in a compressed file."""
    return path.suffix.lower() == ".gz" or on_disk(path) != path


def choose_member(path: Path, endings: dict[str, str]) -> Path:
    """The one table in a zip; any other path as it is.

    Args:
        path: a file, a zip, or a table in a zip.
        endings: ending → format.

    Raises:
        DataError: the zip is damaged, or holds no table or several.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    names = tables_in(path, endings)
    if len(names) == 1:
        return path / names[0]
    if names:
        raise DataError(f"{path} holds {len(names)} tables: {', '.join(names[:8])}", f"name one of them: {path / names[0]}")
    files = [info.filename for info in _directory(path).infolist() if not info.is_dir()]
    raise DataError(
        f"{path} holds no table of rows (.csv, .tsv, .json, .jsonl), but {', '.join(files[:8]) or 'nothing'}",
        "unpack it, and give the file or folder itself",
    )


def tables_in(path: Path, endings: dict[str, str]) -> list[str]:
    """The names of the tables in a zip; texts (.txt) only where there is nothing else.

    Raises:
        DataError: it is damaged.
    """
    names = sorted(info.filename for info in _directory(path).infolist() if not info.is_dir())
    visible = [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]
    tables = [name for name in visible if endings.get(Path(name).suffix.lower()) in TEXT_FORMATS]
    return [name for name in tables if not name.lower().endswith(".txt")] or tables


def open_bytes(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where it is compressed.

    Raises:
        DataError: it is damaged, encrypted, or unpacks to more than a table can be; also while it is read.
    """
    archive = on_disk(path)
    if archive != path:
        return _open_member(path, archive)
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    with path.open("rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            raise DataError(f"{path} is not compressed with gzip, although its name says so", f"name it {path.stem}")
    return io.BufferedReader(_Unpacked(path, lambda: gzip.open(path, "rb"), path.stat().st_size), 1 << 20)


def _open_member(path: Path, archive: Path) -> BinaryIO:
    name = path.relative_to(archive).as_posix()
    directory = _directory(archive)
    try:
        info = directory.getinfo(name)
    except KeyError:
        raise DataError(
            f"{archive} holds no {name!r}", nearest(name, [name for name in directory.namelist() if name[-1:] != "/"])
        ) from None
    if info.flag_bits & 1:
        raise DataError(f"{path} is encrypted", "unpack it with its password, and give the file itself")
    return io.BufferedReader(_Unpacked(path, lambda: zipfile.ZipFile(archive).open(info), max(info.compress_size, 1)), 1 << 20)


def _directory(archive: Path) -> zipfile.ZipFile:
    try:
        with zipfile.ZipFile(archive) as content:
            return content  # what it lists stays readable
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise DataError(f"{archive} is not a sound zip file: {problem}", "pack it again; a part of it may be missing") from None


class _Unpacked(io.RawIOBase):
    """The unpacked bytes, counted.

    Args:
        path: for messages.
        begin: opens them from their beginning.
        size: compressed.
    """

    def __init__(self, path: Path, begin: Callable[[], IO[bytes] | gzip.GzipFile], size: int) -> None:
        super().__init__()
        self._path, self._begin, self._size, self._place = path, begin, size, 0
        self._stream = self._explain_damage(begin)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """To its beginning."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and refuse what no table unpacks to."""
        data = self._explain_damage(lambda: self._stream.read(len(buffer)))
        self._place += len(data)
        if self._place > min(LARGEST, max(ALWAYS, MOST_TIMES * self._size)):
            raise DataError(
                f"{self._path} unpacks to more than {self._place >> 20:,} MiB from {self._size:,} bytes: so much repetition is no table of rows",
                "if it is meant, unpack it and give the file itself",
            )
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go back to the beginning, or stay; reading goes nowhere else."""
        if whence == 0 and offset == 0 and self._place:
            self._stream.close()
            self._stream, self._place = self._explain_damage(self._begin), 0
        elif (whence, offset) not in ((0, self._place), (1, 0)):
            raise io.UnsupportedOperation("only the beginning can be gone back to")
        return self._place

    def tell(self) -> int:
        """Bytes that were read."""
        return self._place

    def close(self) -> None:
        """Close the file too."""
        if not self.closed:
            self._stream.close()
        super().close()

    def _explain_damage(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as problem:
            raise DataError(
                f"{self._path} is damaged: {str(problem).rstrip('.')}", "fetch or pack it again; a part of it may be missing"
            ) from None
        except (NotImplementedError, RuntimeError) as problem:
            raise DataError(f"{self._path} cannot be unpacked: {problem}", "unpack it, and give the file itself") from None
