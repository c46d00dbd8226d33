"""Images as arrays in one file: what is read of it, which splits are obeyed, and what is refused before a byte of it could run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.sources import npz
from luthier.data.sources.images import MODE
from luthier.data.spec import Data
from luthier.families.image_family import images_asked
from luthier.families.recognise import load_dataset
from luthier.objectives.squares import decode


def images(count: int, seed: int = 0, side: int = 12, channels: int = 0) -> np.ndarray:
    """Smooth pictures, no two alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, *([channels] if channels else [])), dtype=np.uint8)
    return coarse.repeat(side // 4, 1).repeat(side // 4, 2)


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "scans.npz"
    np.savez_compressed(path, **arrays)
    return path


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def split(folder: Path) -> Path:
    """A file as MedMNIST lays it out."""
    parts = {"train": 40, "val": 12, "test": 16}
    arrays: dict[str, Any] = {}
    for seed, (part, count) in enumerate(parts.items()):
        arrays |= {f"{part}_images": images(count, seed), f"{part}_labels": (np.arange(count) % 2)[:, None].astype(np.uint8)}
    return save(folder, **arrays)


def test_the_splits_of_a_file_are_obeyed_and_its_pixels_are_those_of_the_arrays(tmp_path: Path) -> None:
    path = split(tmp_path)
    dataset = load_dataset(Data(path=str(path)))
    assert {part: len(rows) for part, rows in dataset.records.items()} == {"train": 40, "validation": 12, "test": 16}
    assert (dataset.spec.task, dataset.spec.input, dataset.spec.target, dataset.labels) == (
        "image_classification",
        ("image",),
        "label",
        ("0", "1"),
    )
    held = arrays_of(path)
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        squares = decode(dataset.records[part], "image", 12, 1)
        assert np.array_equal(np.stack(squares)[:, :, :, 0], held[f"{name}_images"])
        assert [record.values["label"] for record in dataset.records[part]] == [str(label[0]) for label in held[f"{name}_labels"]]
    again = load_dataset(dataset.spec)  # as a run is resumed
    assert [record.row for record in again.records["test"]] == [record.row for record in dataset.records["test"]]


def test_a_changed_file_is_another_one(tmp_path: Path) -> None:
    dataset = load_dataset(Data(path=str(split(tmp_path))))
    save(tmp_path, **{**arrays_of(tmp_path / "scans.npz"), "test_labels": np.zeros((16, 1), np.uint8)})
    with pytest.raises(DataError, match="is not the file this experiment was made for"):
        load_dataset(dataset.spec)


def test_plain_arrays_are_split_as_any_rows(tmp_path: Path) -> None:
    dataset = load_dataset(
        Data(path=str(save(tmp_path, images=images(60, channels=3), labels=np.array(["cat", "dog"])[np.arange(60) % 2])))
    )
    assert dataset.labels == ("cat", "dog")
    assert sum(len(rows) for rows in dataset.records.values()) == 60
    assert {row.values[MODE] for row in dataset.records["train"]} == {"RGB"}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda pixels: pixels / 255, lambda pixels: pixels),
        (lambda pixels: pixels.astype(np.float32), lambda pixels: pixels),
        (lambda pixels: pixels.astype(np.uint16) * 257, lambda pixels: pixels),
        (lambda pixels: (pixels.astype(np.uint16) * 256 + 7).astype(">u2"), lambda pixels: pixels),
        (lambda pixels: pixels.astype(np.uint16), lambda pixels: pixels),
        (lambda pixels: pixels.astype(">u2"), lambda pixels: pixels),
        (lambda pixels: pixels.astype(np.int64), lambda pixels: pixels),
        (lambda pixels: pixels.astype(">i4"), lambda pixels: pixels),
        (lambda pixels: (pixels / 255).astype(np.float16), lambda pixels: pixels),
        (lambda pixels: (pixels / 255).astype(">f4"), lambda pixels: pixels),
        (lambda pixels: pixels > 127, lambda pixels: (pixels > 127) * 255),
        (lambda pixels: (pixels > 127).astype(np.uint8), lambda pixels: (pixels > 127) * 255),
        (lambda pixels: (pixels > 127).astype(np.uint16), lambda pixels: (pixels > 127) * 255),
        (lambda pixels: (pixels > 127).astype(np.int64), lambda pixels: (pixels > 127) * 255),
        (lambda pixels: (pixels > 127).astype(np.float32), lambda pixels: (pixels > 127) * 255),
        (lambda pixels: pixels[..., None], lambda pixels: pixels),
    ],
)
def test_pixels_of_any_honest_type_are_the_same_pixels(tmp_path: Path, change: Any, wanted: Any) -> None:
    pixels = images(40)
    rows = read(save(tmp_path, images=change(pixels))).records(str(tmp_path / "scans.npz"))
    assert np.array_equal(np.stack(decode(rows, "image", 12, 1))[..., 0], wanted(pixels))


@pytest.mark.parametrize(("dtype", "times"), [(np.uint16, 257), (np.float64, 1), (np.uint8, 1)])
def test_a_dark_part_is_read_as_the_brighter_ones_of_its_file_are(tmp_path: Path, dtype: Any, times: int) -> None:
    """By itself it could be meant otherwise: 16 bits that are all small, fractions, black and white."""
    bright = images(40).astype(dtype) * dtype(times)
    dark = np.minimum(images(40, 1), 1).astype(dtype)
    path = save(tmp_path, train_images=bright, train_labels=LABELS, test_images=dark, test_labels=LABELS)
    rows = read(path / "test").records(str(path / "test"))
    assert np.array_equal(np.stack(decode(rows, "image", 12, 1))[..., 0], dark // times)
    other = save(tmp_path, train_images=images(40).astype(np.uint8), test_images=bright / dtype(255 * times))  # of another type: by itself
    rows = read(other / "test").records(str(other / "test"))
    assert np.stack(decode(rows, "image", 12, 1)).max() == 255


def test_colours_and_what_is_transparent_keep_their_pixels(tmp_path: Path) -> None:
    pixels = images(40, channels=4)
    for change in (lambda pixels: pixels, lambda pixels: (pixels.astype(np.uint16) * 256 + 7).astype(">u2"), lambda pixels: pixels / 255):
        path = save(tmp_path, images=change(pixels))
        rows = read(path).records(str(path))
        assert {row.values[MODE] for row in rows} == {"RGBA"}
        assert np.array_equal(np.stack(decode(rows, "image", 12, 3)), pixels[..., :3])


LABELS = np.arange(40) % 2
BAD = {
    "is an array of Python objects, which is a pickle": {"images": images(40), "labels": np.array(["a", None] * 20, dtype=object)},
    "labels has 39 rows and images has 40": {"images": images(40), "labels": LABELS[:39]},
    "holds values from -1 to": {"images": images(40) / 255.0 * 2 - 1, "labels": LABELS},
    "holds values from 0 to 300": {"images": np.full((40, 12, 12), 300.0) * (np.arange(40)[:, None, None] > 0), "labels": LABELS},
    r"images\[7\] holds values that are no numbers": {
        "images": np.where(np.arange(40)[:, None, None] == 7, np.nan, images(40) / 255),
        "labels": LABELS,
    },
    "has the shape 40 × 144": {"images": images(40).reshape(40, 144), "labels": LABELS},
    "images holds 16-bit numbers of which none is above 4,080: read as 16 bits they would be 16 shades": {
        "images": images(40).astype(np.uint16) * np.uint16(16),
        "labels": LABELS,
    },
    "its channels come before the pixels": {"images": np.moveaxis(images(40, channels=3), 3, 1), "labels": LABELS},
    "has the shape 40 × 12 × 12 × 12": {"images": np.zeros((40, 12, 12, 12), np.uint8), "labels": LABELS},
    "it is empty": {"images": np.zeros((0, 12, 12), np.uint8)},
    "images holds complex128": {"images": images(40).astype(complex), "labels": LABELS},
    "an image has one class": {"images": images(40), "labels": np.eye(2)[LABELS]},
    "holds NaN or infinite values": {"images": images(40), "labels": np.where(LABELS == 0, np.nan, 1.0)},
    "holds no images, but x": {"x": images(40)},
}


@pytest.mark.parametrize("message", BAD)
def test_a_file_that_cannot_be_used_is_told_why(tmp_path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as problem:
        load_dataset(Data(path=str(save(tmp_path, **BAD[message]))))
    assert problem.value.remedy


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = save(tmp_path, images=images(40), labels=np.array([Evil()] * 40, dtype=object))
    with pytest.raises(DataError, match="pickle"):
        read(path)
    with pytest.raises(DataError, match="pickle"):  # not even where nobody asks for it
        read(save(tmp_path, images=images(40), labels=LABELS, note=np.array([Evil()], dtype=object)))
    assert not (tmp_path / "ran").exists()


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, images=np.zeros((90_000, 28, 28), np.uint8))
    with pytest.raises(DataError, match="unpacks to 67 MiB from"):
        read(path)
    monkeypatch.setattr(npz, "LARGEST", 1 << 20)
    with pytest.raises(DataError, match="more than the 1 MiB that are read of one array"):
        read(path)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scans.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 28, 28), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="MiB"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scans.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not a sound \.npz file"):
        load_dataset(Data(path=str(path)))


def test_a_part_is_named_like_a_file_and_a_bundle_can_be_asked_about_it(tmp_path: Path) -> None:
    path = split(tmp_path)
    records, table = images_asked(path / "test", "image")
    assert (len(records), table) == (16, path / "test")
    assert len(decode(records, "image", 8, 1)) == 16
    with pytest.raises(DataError, match="holds the parts train, val, test"):
        read(path)
    with pytest.raises(DataError, match="holds no tset_images"):
        read(path / "tset")
