"""Images as arrays in one .npz file: `images` and `labels`, or the parts of a split as MedMNIST names them (`train_images`, `train_labels`, `val_images`, …).

A part is named like a file inside a folder (`scans.npz/test`), and an image in it too (`scans.npz/test_images/00017.png`). Arrays of Python objects are
pickles, which can run any program: they are never opened.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, NoRows, nearest
from luthier.core.extras import require_extra
from luthier.data.archives import ALWAYS, MOST_TIMES, on_disk
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows
from luthier.data.sources.images import DARKEST, KEPT, MEMORY, READER, SCALING, SECONDS
from luthier.data.sources.sandbox import LIMITS, read_each

PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Part → how its arrays' names may begin."""
LARGEST = 1 << 30
"""Bytes that an array may unpack to: it is read as a whole, in a process that may have twice as much."""
CHANNELS = (1, 3, 4)
AS_PICTURES = "or save the images as PNG files, in a sub-folder for each class"

CONTENT = (
    LIMITS
    + SCALING
    + f"DARKEST = {DARKEST}"
    + """
import numpy as np
images, labels = sys.argv[2:4]
for line in sys.stdin:
    said = {}
    try:
        with np.load(json.loads(line), allow_pickle=False) as file:
            pixels = file[images]
            if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
                row = int(np.argwhere(~np.isfinite(pixels).reshape(len(pixels), -1).all(1))[0, 0])
                raise ValueError(f"{images}[{row}] holds values that are no numbers (NaN or infinite)")
            if pixels.dtype.kind in "fi":
                low, high = float(pixels.min()), float(pixels.max())
                if low < 0 or high > 255:
                    raise ValueError(f"{images} holds values from {low:g} to {high:g}, and a pixel lies between 0 and 1, or between 0 and 255")
            if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 and 255 < (most := most_of(file, images, pixels)) <= DARKEST:
                raise ValueError(f"{images} holds 16-bit numbers of which none is above {most:,.0f}: read as 16 bits they would be {int(most) // 256 + 1} shades of nearly black; give ({images} * (255 / {DARKEST})).astype(numpy.uint8) where {DARKEST:,} is white")
            if labels:
                classes = file[labels].reshape(-1)
                if classes.dtype.kind == "f":
                    if not np.isfinite(classes).all():
                        raise ValueError(f"{labels} holds NaN or infinite values, and a label is a number or a name")
                    if (classes == np.round(classes)).all():
                        classes = classes.astype(np.int64)
                said["labels"] = [each.decode() if isinstance(each, bytes) else str(each) for each in classes.tolist()]
    except BaseException as problem:
        said = {"why": (str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}")[:300]}
    print(json.dumps(said), flush=True)
"""
)
"""Looks at the values of a part's arrays, in a process of its own, and says the labels."""


def read_npz(source: FileOfRows) -> Rows:
    """Read the images of a file, or of one part of it, each with its label where there are some.

    Raises:
        DataError: it is no such file, an array is a pickle or of the wrong form, or images and labels do not go together.
    """
    path = source.path
    file = on_disk(path)
    require_extra("PIL", f"{path}: reading images", DataError)
    arrays = _headers(file)
    prefix = _prefix(file, "" if path == file else path.relative_to(file).as_posix(), arrays)
    images, labels = (prefix + name for name in ("images", "labels"))
    shape = _check_images(file, images, *arrays[images])
    if labels in arrays:
        _check_labels(file, labels, arrays[labels], images, shape[0])
    (said,) = read_each(CONTENT, [file], SECONDS * 10, MEMORY, images, labels if labels in arrays else "")
    if "why" in said:
        raise DataError(
            f"{file}: {said['why']}",
            f"mend the array, {AS_PICTURES}",
        )
    table = source.rows(["image", *(["label"] if "labels" in said else []), *KEPT])
    names = [f"{images}/{number:05}.png" for number in range(shape[0])]
    for number, (name, facts) in enumerate(zip(names, read_each(READER, [file / name for name in names], SECONDS, MEMORY), strict=True), 1):
        values = {"image": name, **({"label": said["labels"][number - 1]} if "labels" in said else {})}
        if "why" in facts:
            table.rejected.append(Rejected(str(path), number, f"{name}: {facts['why']}", values))
        else:
            table.add(number, {**values, **facts})
    return table


def parts_of(file: Path) -> dict[str, str]:
    """The parts of a split that a file holds: part → how it is named as a file; none where it holds `images` alone.

    Args:
        file: the .npz.
    """
    arrays = _headers(file)
    found = {part: next((prefix for prefix in prefixes if f"{prefix}_images" in arrays), "") for part, prefixes in PARTS.items()}
    return {part: str(file / prefix) for part, prefix in found.items() if prefix} if found["train"] else {}


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape and the type of each array, from its first bytes alone.

    Raises:
        DataError: it is no .npz, an array is a pickle, or unpacks to too much.
    """
    from numpy.lib import format as npy

    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    try:
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
                    shape, _, dtype = read(stream)
                if dtype.hasobject:
                    raise DataError(f"{file}: {name} is an array of Python objects, which is a pickle: opening it could run any program",
                                    f"save it as numbers (uint8) or texts (str), {AS_PICTURES}")  # fmt: skip
                _refuse_bomb(file, name, info, int(dtype.itemsize * _count(shape)))
                found[name] = tuple(shape), dtype
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError, RuntimeError) as problem:
        raise DataError(
            f"{file} is not a sound .npz file: {problem}", f"write it again with numpy.savez_compressed, {AS_PICTURES}"
        ) from None
    return found


def _count(shape: tuple[int, ...]) -> int:
    whole = 1
    for side in shape:
        whole *= side
    return whole


def _refuse_bomb(file: Path, name: str, info: zipfile.ZipInfo, size: int) -> None:
    """Refuse an array that unpacks to more than is read, or to more than images do."""
    whole = max(size, info.file_size)
    if whole > LARGEST:
        raise DataError(
            f"{file}: {name} unpacks to {whole >> 20:,} MiB, more than the {LARGEST >> 20:,} MiB that are read of one array",
            f"split the file, {AS_PICTURES}",
        )
    if whole > max(ALWAYS, MOST_TIMES * max(info.compress_size, 1)):
        raise DataError(
            f"{file}: {name} unpacks to {whole >> 20:,} MiB from {info.compress_size:,} bytes: so much repetition is no images",
            "give the file that was meant",
        )


def _prefix(file: Path, part: str, arrays: dict[str, Any]) -> str:
    """How the names of a part's arrays begin.

    Raises:
        DataError: there is no such part, or none was named and there are several.
    """
    whole = [name for name in arrays if name == "images" or name.endswith("_images")]
    if not whole:
        raise DataError(
            f"{file} holds no images, but {', '.join(arrays) or 'nothing'}",
            "name the arrays images and labels, or train_images, train_labels, val_images, …",
        )
    if not part:
        if "images" in arrays:
            return ""
        known = [name.removesuffix("_images") for name in whole]
        if len(known) == 1:
            return f"{known[0]}_"
        raise DataError(f"{file} holds the parts {', '.join(known)}", f"name one of them: {file / known[-1]}")
    if f"{part}_images" not in arrays:
        raise DataError(f"{file} holds no {part}_images", nearest(f"{part}_images", whole))
    return f"{part}_"


def _check_images(file: Path, name: str, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """The shape of an array of images.

    Raises:
        DataError: it is none.
    """
    said = f"{file}: {name} has the shape {' × '.join(map(str, shape)) or 'of one number'}"
    if len(shape) == 4 and shape[3] not in CHANNELS and shape[1] in CHANNELS:
        raise DataError(f"{said}: its channels come before the pixels", f"let them come last: numpy.moveaxis({name}, 1, -1)")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in CHANNELS):
        raise DataError(
            f"{said}, and images are rows × height × width (grey) or rows × height × width × 3", f"give such an array, {AS_PICTURES}"
        )
    if not _count(shape):
        raise NoRows(f"{said}: it is empty", "give a file with at least 30 images")
    if dtype.kind not in "buif" or (dtype.kind in "u" and dtype.itemsize > 2):
        raise DataError(
            f"{file}: {name} holds {dtype}, and pixels are uint8, uint16, whole numbers from 0 to 255, or fractions from 0 to 1",
            f"change its type, {AS_PICTURES}",
        )
    return shape


def _check_labels(file: Path, name: str, held: tuple[tuple[int, ...], Any], images: str, count: int) -> None:
    """Refuse labels that are not one class for each image.

    Raises:
        DataError: they are not.
    """
    shape, dtype = held
    rows = shape[0] if shape else 0
    if rows != count:
        raise DataError(
            f"{file}: {name} has {rows:,} rows and {images} has {count:,}: they do not go together",
            "give each image its label, in the same order",
        )
    if _count(shape) != rows:
        raise DataError(
            f"{file}: {name} has the shape {' × '.join(map(str, shape))}, and an image has one class",
            f"of one-hot columns take the place: {name}.argmax(1)",
        )
    if dtype.kind not in "biufUS":
        raise DataError(f"{file}: {name} holds {dtype}, and a class is a whole number or a name", "change its type")
