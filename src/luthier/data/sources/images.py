"""Images: a folder with a sub-folder for each class, a folder of images without classes, or a table that names the files.

Of each its size, a hash of its pixels and a small grey picture are kept in the row: enough to find copies and to show it. The pixels stay in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from luthier.core.errors import DataError
from luthier.core.extras import require_extra
from luthier.core.words import plural
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows
from luthier.data.sources.sandbox import LIMITS, read_each

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
OTHER_IMAGES = (".svg", ".heic", ".heif", ".avif", ".jp2", ".dcm", ".psd", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".jfif")
"""Images of other formats: named where they lie among those that are read."""
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".xlsx", ".parquet")
"""Tables beside images, which may say what they show."""
SECONDS = 60
MEMORY = 2 << 30
LARGEST = 64 << 20
"""Pixels an image may have."""
SIDE = 32
"""Of the grey picture."""
DARKEST = 4095
"""The largest number of 12 bits: grey of 16 bits without a larger one is meant otherwise."""
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's modes that hold no colour."""
WIDTH, HEIGHT, MODE, PIXELS_HASH, THUMBNAIL = KEPT = ("image.width", "image.height", "image.mode", "image.pixels", "image.thumbnail")
"""What a row says of its image: its size, its kind of colour, the SHA-256 of its decoded pixels, and a grey picture of 32 × 32 bytes in hex. The names are
such as no table has: a person's own `width` stays theirs."""

SCALING = """
def most_of(held, name, pixels):  # of an array of images; of all of its type in the file, where its own could be meant in two ways
    import numpy as np

    most, limit = np.fmax.reduce(pixels, axis=None), 255 if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 else 1
    for each in held.files:
        if most <= limit and each != name and (each == "images" or each.endswith("_images")):
            other = held[each]
            if other.size and (other.dtype.kind, other.dtype.itemsize) == (pixels.dtype.kind, pixels.dtype.itemsize):
                most = max(most, np.fmax.reduce(other, axis=None))
    return float(most)


def as_bytes(held, name):
    import numpy as np

    pixels = held[name]
    most = most_of(held, name, pixels)
    if pixels.dtype.kind == "f":
        pixels = np.round(pixels * 255 if most <= 1 else pixels)
    elif most <= 1:  # black and white
        pixels = pixels * np.uint8(255)
    elif most > 255:  # 16 bits: the upper 8 of them
        pixels = pixels >> 8
    return np.ascontiguousarray(pixels.astype(np.uint8))


"""
"""What a child's script needs that makes bytes of an array of images: from 0 to 1, from 0 to 255, or of 16 bits, as the largest number says."""

DECODING = (
    LIMITS
    + SCALING
    + """
import os
from PIL import Image, UnidentifiedImageError


def eight_bits(image):
    if image.mode.startswith("I"):  # 16 bits of grey: the upper 8 of them
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "F":
        raise ValueError("its pixels are fractions (mode F): save it with 8 or 16 bits of grey")
    return image


ARRAYS = {}  # of .npz files, by file and name: read once


def opened(path):
    if ".npz/" not in path or os.path.exists(path):
        return Image.open(path)
    file, _, rest = path.rpartition(".npz/")
    name, _, number = rest.partition("/")
    if (file, name) not in ARRAYS:
        import numpy as np

        with np.load(file + ".npz", allow_pickle=False) as held:
            ARRAYS[file, name] = as_bytes(held, name)
    pixels = ARRAYS[file, name][int(number.partition(".")[0])]
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def why(problem, path):
    said = str(problem).replace(path, "the file")
    if isinstance(problem, UnidentifiedImageError):
        with open(path, "rb") as file:
            start = file.read(512)
        if not start:
            return "it is empty"
        try:
            start.decode()
        except UnicodeDecodeError:
            return "it is no image of a kind that is read"
        return "it is no image: it holds text"
    if "truncated" in said or "Truncated" in said or "EOF" in said:
        return f"it is cut off (truncated): {said}"
    return said if isinstance(problem, ValueError) else f"{type(problem).__name__}: {said}"


"""
)
"""How a child's script begins that decodes images: deep grey is made flat, and what is wrong with a file is said in a few words."""

READER = (
    DECODING
    + f"""
import hashlib
Image.MAX_IMAGE_PIXELS = None  # the limit is ours: it names the file
for line in sys.stdin:
    try:
        with opened(json.loads(line)) as image:
            width, height = image.size
            if width * height > {LARGEST}:
                raise ValueError(f"it has {{width}} × {{height}} pixels, more than {LARGEST >> 20} million")
            mode = image.mode
            numbers = image.convert("I") if mode.startswith("I") else None
            deep = {{"largest": numbers.getextrema()[1]}} if numbers else {{}}
            whole = eight_bits(image).convert("RGB")
        grey = whole.convert("L").resize(({SIDE}, {SIDE}), Image.Resampling.BOX).tobytes()
        told = numbers if numbers and deep["largest"] <= {DARKEST} else whole  # what is nearly black is no copy of all that is
        pixels = hashlib.sha256(f"{{width}} {{height}} ".encode() + told.tobytes()).hexdigest()
        said = {{"{WIDTH}": width, "{HEIGHT}": height, "{MODE}": mode, "{PIXELS_HASH}": pixels, "{THUMBNAIL}": grey.hex(), **deep}}
    except BaseException as problem:
        said = {{"why": why(problem, json.loads(line))[:300]}}
    print(json.dumps(said), flush=True)
"""
)

PIXELS = (
    DECODING
    + """
for line in sys.stdin:
    with opened(json.loads(line)) as image:
        whole = eight_bits(image).convert("RGB")
    whole.thumbnail((int(sys.argv[2]),) * 2)
    print(json.dumps({"size": whole.size, "bytes": whole.tobytes().hex()}), flush=True)
"""
)


def pixels(path: Path, side: int) -> np.ndarray:
    """An image's colours, decoded in a process of its own, # (height, width, 3) of uint8

    Args:
        path: the file.
        side: the longer one of what comes back, at most.

    Raises:
        DataError: it cannot be decoded.
    """
    (answer,) = read_each(PIXELS, [path], SECONDS, MEMORY, str(side))
    if "why" in answer:
        raise DataError(f"{path} cannot be decoded: {answer['why']}", "look at the file")
    width, height = answer["size"]
    return np.frombuffer(bytes.fromhex(answer["bytes"]), dtype=np.uint8).reshape(height, width, 3)


def read_images(source: FileOfRows) -> Rows:
    """Read a folder's images in the order of their names, each with its sub-folder as its label where there are some; links are not followed out of it."""
    folder = source.path
    files = images_of(folder)
    if not files:
        raise DataError(
            f"the folder {folder} holds no images ({', '.join(ENDINGS)})", "give a folder with a sub-folder of images for each class"
        )
    loose = [path for path in files if len(path.relative_to(folder).parts) == 1]
    if len(loose) == len(files):
        table = source.rows(["image"])
        for number, path in enumerate(files, 1):
            table.add(number, {"image": path.name})
        table.thin()
        table.notes += _unread(folder)
        return describe_images(table, "image", folder, str(folder))
    if loose:
        raise DataError(
            f"{folder}: {loose[0].name} lies in no sub-folder, so it has no class, and {next(path for path in files if path not in loose).relative_to(folder)} has one",
            "put the images of each class into a sub-folder of its own, or give a table with the columns image and label",
        )
    table = source.rows(["image", "label"])
    for number, path in enumerate(files, 1):
        table.add(number, {"image": str(path.relative_to(folder)), "label": path.relative_to(folder).parts[0]})
    table.thin()
    table.notes += _unread(folder)
    return describe_images(table, "image", folder, str(folder))


def _unread(folder: Path) -> list[tuple[str, str]]:
    """What lies in a folder of images and is not read, though a person may mean it: a table, images of other formats, a class without an image."""
    inside = sorted(path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    tables = [path for path in inside if path.parent == folder and path.suffix.lower() in TABLES and path.is_file()]
    others = [str(path.relative_to(folder)) for path in inside if path.suffix.lower() in OTHER_IMAGES and path.is_file()]
    empty = [path.name for path in inside if path.parent == folder and path.is_dir() and not images_of(path)]
    notes = []
    if tables:
        notes.append((f"{tables[0].name} lies among the images of {folder} and is not read", f"if it names them, give it in place of the folder: {tables[0]}"))  # fmt: skip
    if others:
        claim = f"{len(others):,} {'image is' if len(others) == 1 else 'images are'} of a format that is not read, the first {others[0]}"
        notes.append((claim, "save them as PNG or JPEG"))
    if empty:
        notes.append((f"the sub-folder {empty[0]} of {folder} holds no image: it is no class", "put its images in, or take it away"))
    return notes


def images_of(folder: Path) -> list[Path]:
    """The images under a folder, by name; hidden files, and links, are left out."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def image_column(table: Rows, folder: Path) -> str | None:
    """The column whose cells name image files, or None."""
    for name in table.columns:
        cells = [str(row.get(name) or "") for row in table.values[:20]]
        if cells and all(cell.lower().endswith(ENDINGS) for cell in cells) and any((folder / cell).is_file() for cell in cells):
            return name
    return None


def describe_images(table: Rows, column: str, folder: Path, path: str) -> Rows:
    """The table with what its images say of themselves; rows whose image cannot be read are set aside.

    Args:
        table: as read.
        column: names the files.
        folder: from which they are named; a file outside of it is not opened.
        path: of the table, for messages.

    Raises:
        DataError: Pillow is not installed, no image can be read, or those of 16 bits are meant as fewer.
    """
    require_extra("PIL", f"{path}: reading images", DataError)
    taken = next((name for name in KEPT if name in table.columns), None)
    if taken is not None:
        raise DataError(f"{path}: the column {taken!r} has the name of what is noted of each image itself", "give the column another name")
    rows = Rows(columns=[*table.columns, *KEPT], header=table.header, rejected=table.rejected, notes=table.notes)
    root = folder.resolve()
    places = [(root / str(row.get(column) or "")).resolve() for row in table.values]
    inside = [file.is_relative_to(root) and file.is_file() for file in places]
    deep: list[int] = []
    with closing(
        read_each(READER, _select_files(places, inside), SECONDS, MEMORY)
    ) as answers:  # its reader ends here, not when memory is tidied up
        for line, row, place, there in zip(table.lines, table.values, places, inside, strict=True):
            facts = next(answers) if there else {"why": _why_not_opened(place, root)}
            if "why" in facts:
                rows.rejected.append(Rejected(path, line, f"{row.get(column)}: {facts['why']}", row))
            else:
                deep += [int(facts.pop("largest"))] if "largest" in facts else []
                rows.add(line, {**row, **facts})
    if deep and max(deep) <= DARKEST:
        _refuse_dark(path, len(deep), max(deep))
    if not rows.values:
        raise DataError(f"no image of {path} can be read: {rows.rejected[0].reason}", "look at the files")
    rows.met = table.met
    return rows


def _refuse_dark(path: str, count: int, most: int) -> None:
    """Refuse images of 16 bits whose upper 8 hold next to nothing, as those of arrays are refused.

    Args:
        path: of the table, for messages.
        count: images of 16 bits.
        most: the largest number in any of them.

    Raises:
        DataError: always.
    """
    white = 255 if most <= 255 else 1023 if most <= 1023 else DARKEST
    raise DataError(
        f"{path}: its {plural(count, 'image')} with 16 bits of grey hold no number above {most:,}: read as 16 bits they would be "
        f"{plural(most // 256 + 1, 'shade')} of nearly black",
        f"save them with 8 bits: of the numbers of an image (pixels * (255 / {white})).astype(numpy.uint8) where {white:,} is white",
    )


def _why_not_opened(file: Path, root: Path) -> str:
    """Why an image that a table names is not opened; whether there is a file outside of the folder is not said."""
    if not file.is_relative_to(root):
        return "lies outside the table's folder and is not opened: move it, or the table, so that the folder holds both"
    return "there is no file of this name beside the table"


def _select_files(places: Sequence[Path], inside: Sequence[bool]) -> list[Path]:
    return [file for file, there in zip(places, inside, strict=True) if there]
