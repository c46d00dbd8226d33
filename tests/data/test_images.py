"""Images: what a row holds of one, which are copies, and what a hostile file can cost."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import luthier
from luthier.core.errors import DataError
from luthier.data import similar_images
from luthier.data.read_rows import read
from luthier.data.sources import images
from luthier.data.sources.images import HEIGHT, MODE, PIXELS_HASH, THUMBNAIL, WIDTH
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset


def picture(seed: int, side: int = 96) -> Image.Image:
    """A smooth landscape of its own for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(60):
        place = tmp_path / "scans" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:03}.png")
    return tmp_path / "scans"


COPIES = {
    "scaled": lambda image: image.resize((61, 61)),
    "compressed": lambda image: reopen(image, "JPEG", quality=60),
    "brightened": lambda image: image.point(lambda value: min(255, int(value * 1.1 + 6))),
    "saved in another format": lambda image: reopen(image, "WEBP", quality=80),
}


def reopen(image: Image.Image, format: str, **options: int) -> Image.Image:
    kept = io.BytesIO()
    image.save(kept, format, **options)
    return Image.open(io.BytesIO(kept.getvalue()))


def thumbnail(image: Image.Image) -> str:
    return image.convert("RGB").convert("L").resize((images.SIDE, images.SIDE), Image.Resampling.BOX).tobytes().hex()


@pytest.mark.parametrize("kind", COPIES)
def test_changed_copies_are_found_and_other_images_are_not(kind: str) -> None:
    own = [picture(seed) for seed in range(300)]
    found = similar_images.clusters([thumbnail(image) for image in (*own, *(COPIES[kind](image) for image in own[:150]))])
    assert sum(found[300 + number] == number for number in range(150)) >= 0.98 * 150
    assert found[:300] == list(range(300))


def test_a_folder_of_images_is_a_table_of_files_and_classes(folder: Path) -> None:
    (folder / ".hidden.png").write_bytes(b"not looked at")
    rows = read(folder)
    assert len(rows.values) == 60
    first = rows.values[0]
    assert (first["image"], first["label"], first[WIDTH], first[HEIGHT], first[MODE]) == ("cat/001.png", "cat", 96, 96, "RGB")
    assert first[PIXELS_HASH] == rows.values[0][PIXELS_HASH] != rows.values[1][PIXELS_HASH]
    assert load_dataset(Data(path=str(folder))).spec.task == "image_classification"


def test_copies_among_the_images_are_told_and_kept_in_one_part(folder: Path, tmp_path: Path) -> None:
    for number in (4, 6, 8):
        picture(number).save(folder / "dog" / f"copy{number}.bmp")  # the same pixels
        reopen(picture(number + 20), "JPEG", quality=70).save(folder / "dog" / f"near{number}.png")
    picture(10).save(folder / "cat" / "other-class.png")
    checked = luthier.check(folder, page=tmp_path / "page.html", fix=tmp_path / "clean.csv")
    told = {found.check: found for found in checked.findings}
    assert told["duplicates.exact"].evidence["count"] == 3
    assert told["duplicates.near"].evidence["clusters"] == 3
    assert told["conflicts"].evidence["texts"] == 1
    part = {record.values["image"]: name for name, records in checked.dataset.records.items() for record in records}
    for number in (4, 6, 8):
        assert part[f"dog/copy{number}.bmp"] == part[f"dog/{number:03}.png"]
        assert part[f"dog/near{number}.png"] == part[f"dog/{number + 20:03}.png"]
    assert (tmp_path / "page.html").read_text().count("data:image/png;base64") >= 3
    again = load_dataset(Data(path=str(tmp_path / "clean.csv")))  # the table names the files from where it lies
    assert again.count == 67 - 3 - 2


def test_a_label_that_the_size_tells_is_told(tmp_path: Path) -> None:
    for number in range(120):
        place = tmp_path / ("ill" if number % 2 else "well")
        place.mkdir(exist_ok=True)
        picture(number, 64 if number % 2 else 80).save(place / f"{number}.png")
    claims = [found.claim for found in luthier.check(tmp_path).findings if found.check == "shortcuts"]
    assert any(claim.startswith("its size alone tells the label") for claim in claims)


def bomb() -> bytes:
    """A small file that says it has 60,000 × 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")  # fmt: skip


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it is empty"),
        (b"plain text", "it is no image: it holds text"),
        (b"\x00\xff\xfe\x80 nothing", "it is no image of a kind that is read"),
        (bomb(), "more than 64 million"),
        (None, "it is cut off (truncated)"),
    ],
)
def test_an_image_that_cannot_be_read_costs_its_row_alone(folder: Path, content: bytes | None, reason: str) -> None:
    whole = (folder / "cat" / "001.png").read_bytes()
    (folder / "cat" / "001.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    rows = read(folder)
    assert len(rows.values) == 59
    assert [row.line for row in rows.rejected] == [1]
    assert "cat/001.png" in rows.rejected[0].reason
    assert reason in rows.rejected[0].reason


def test_a_jpeg_that_is_cut_off_and_pixels_that_are_fractions_are_told_in_words(folder: Path) -> None:
    whole = io.BytesIO()
    picture(5).save(whole, "JPEG", quality=95)
    (folder / "cat" / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    Image.fromarray(np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)).save(folder / "cat" / "fractions.tiff")
    reasons = [row.reason for row in read(folder).rejected]
    assert len(reasons) == 2
    assert "cat/cut.jpg: it is cut off (truncated)" in reasons[0]
    assert "cat/fractions.tiff: its pixels are fractions (mode F): save it with 8 or 16 bits of grey" in reasons[1]
    assert not any(str(folder) in reason for reason in reasons)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_of_grey_are_seen_by_their_upper_eight_and_are_no_copies_of_each_other(folder: Path, ending: str) -> None:
    for number in (1, 2):
        deep = np.asarray(picture(200 + number).convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(folder / "cat" / f"deep{number}.{ending}")
    found = [row for row in read(folder).values if "deep" in row["image"]]
    assert found[0][PIXELS_HASH] != found[1][PIXELS_HASH]
    assert similar_images.clusters([row[THUMBNAIL] for row in found]) == [0, 1]
    flat = thumbnail(picture(201).convert("L"))
    apart = np.abs(np.frombuffer(bytes.fromhex(found[0][THUMBNAIL]), np.uint8).astype(int) - np.frombuffer(bytes.fromhex(flat), np.uint8))
    assert apart.max() <= 1


def test_a_reader_that_dies_at_one_image_goes_on_with_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        images,
        "READER",
        images.READER.replace(
            "    try:\n        with opened",
            "    if '011' in line:\n        import os; os.kill(os.getpid(), 9)\n    try:\n        with opened",
        ),
    )
    rows = read(folder)
    assert len(rows.values) == 59
    assert "its reader was ended" in rows.rejected[0].reason


def test_a_table_names_no_file_outside_of_its_folder(folder: Path, tmp_path: Path) -> None:
    picture(99).save(tmp_path / "secret.png")
    table = folder / "rows.csv"
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    table.write_text("\n".join(["file,kind", *lines, "../secret.png,cat", "cat/missing.png,cat"]) + "\n")
    rows = read(table)
    assert len(rows.values) == 60
    assert [row.line for row in rows.rejected] == [62, 63]
    assert rows.rejected[0].reason.startswith("../secret.png: lies outside the table's folder and is not opened")
    assert rows.rejected[1].reason == "cat/missing.png: there is no file of this name beside the table"
    found = load_dataset(Data(path=str(table)))
    assert (found.spec.input, found.spec.target) == (("file",), "kind")


def test_images_without_a_class_are_refused_with_the_remedy(folder: Path) -> None:
    picture(1).save(folder / "loose.png")
    with pytest.raises(DataError, match=r"loose\.png lies in no sub-folder, so it has no class, and .* has one"):
        read(folder)


def test_a_folder_of_images_without_sub_folders_has_no_classes(tmp_path: Path) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    found = read(tmp_path)
    assert [row["image"] for row in found.values] == ["0.png", "1.png", "2.png"]
    assert "label" not in found.columns


def test_blank_and_tiny_images_are_told(folder: Path) -> None:
    Image.new("RGB", (96, 96), (120, 120, 120)).save(folder / "cat" / "blank.png")
    picture(77, 12).save(folder / "dog" / "tiny.png")
    told = {found.check: found.evidence["count"] for found in luthier.check(folder).findings if found.check.startswith("images")}
    assert told == {"images.blank": 1, "images.small": 1, "images.mixed": 1}


def deep(folder: Path, ending: str, most: int, name: str = "deep{}", count: int = 60) -> Path:
    """Images of 16 bits of grey from 800 to a largest number."""
    for number in range(count):
        place = folder / "deep" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        flat = np.asarray(picture(number, 32).convert("L")).astype(float)
        spread = 800 + (flat - flat.min()) / (flat.max() - flat.min()) * (most - 800)
        Image.fromarray(spread.astype(np.uint16)).save(place / f"{name.format(number)}.{ending}")
    return folder / "deep"


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize(("most", "white"), [(1_000, "1,023"), (3_300, "4,095")])
def test_grey_of_ten_or_twelve_bits_in_files_of_sixteen_is_refused_as_in_arrays(tmp_path: Path, ending: str, most: int, white: str) -> None:
    with pytest.raises(DataError, match=f"60 images with 16 bits of grey hold no number above {most:,}.*nearly black") as problem:
        luthier.check(deep(tmp_path, ending, most), fix=tmp_path / "clean.csv")
    assert f"where {white} is white" in problem.value.remedy
    assert not (tmp_path / "clean.csv").exists()


def test_dark_images_beside_bright_ones_of_sixteen_bits_are_named_and_never_taken_out(tmp_path: Path) -> None:
    folder = deep(tmp_path, "png", 60_000)
    deep(tmp_path, "png", 1_000, "dark{}", 4)
    checked = luthier.check(folder, fix=tmp_path / "deep" / "clean.csv")
    told = {found.check: found for found in checked.findings if found.check.startswith("images")}
    assert set(told) == {"images.dark"}
    assert told["images.dark"].evidence["count"] == 4
    assert "drop" not in told["images.dark"].evidence
    assert (tmp_path / "deep" / "clean.csv").read_text().count("dark") == 4


def test_images_of_several_sizes_and_kinds_are_told_what_is_made_of_them(folder: Path) -> None:
    assert not [found for found in luthier.check(folder).findings if found.check == "images.mixed"]  # all alike: nothing to tell
    for number, mode in enumerate(("L", "RGBA", "P", "LA", "1")):
        picture(300 + number, 64 + number).convert(mode).save(folder / "cat" / f"{mode}.png")
    Image.fromarray(np.asarray(picture(310).convert("L")).astype(np.uint16) * 257).save(folder / "cat" / "deep.png")
    (note,) = (found for found in luthier.check(folder).findings if found.check == "images.mixed")
    assert note.severity == "note"
    assert note.claim.startswith("the images have 6 sizes from 64 × 64 to 96 × 96 pixels, and are stored in 7 ways (60 RGB, ")
    assert set(note.evidence["modes"]) == {"RGB", "L", "RGBA", "P", "LA", "1", "I;16"}
    for said in ("square of objective.side pixels", "proportions are not kept", "read in colours", "transparency is dropped", "upper 8"):
        assert said in note.remedy


def test_what_is_said_of_transparency_is_what_is_done(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 10, 20, 0)).save(tmp_path / "clear.png")
    assert (images.pixels(tmp_path / "clear.png", 4) == (200, 10, 20)).all()


def test_a_picture_among_texts_leaves_it_a_folder_of_texts(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.md").write_text(f"contract number {number}")
    picture(1).save(tmp_path / "logo.png")
    assert read(tmp_path).columns == ["text", "file"]


@pytest.mark.parametrize("task", ["classification", "masked_lm"])
def test_a_family_that_reads_texts_refuses_images_and_reads_no_column_that_the_reader_made(folder: Path, task: str) -> None:
    with pytest.raises(DataError, match=rf"'image' names images, and {task} reads texts[\s\S]*--task image_classification"):
        load_dataset(Data(path=str(folder), task=task))
    with pytest.raises(DataError, match=r"'image\.thumbnail' is what was noted of images"):
        load_dataset(Data(path=str(folder), task=task, input=(THUMBNAIL,)))
    assert load_dataset(Data(path=str(folder))).reason == "'image' names images; 'label' takes 2 values over 60 rows"
    lines = [f"{number:03}.png,caption {number} of a picture,{'ab'[number % 2]}" for number in range(60)]
    (folder / "captions.csv").write_text("image,caption,label\n" + "\n".join(lines))
    for line in folder.rglob("*.png"):
        line.rename(folder / line.name)
    assert load_dataset(Data(path=str(folder / "captions.csv"), task=task)).spec.input == ("caption",)


def test_columns_that_a_person_named_as_the_reader_names_what_it_notes_stay_theirs(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.rename(folder / file.name)
    lines = [f"{number:03}.png,{number / 7},{'portrait' if number % 2 else 'landscape'},{'ab'[number % 2]}" for number in range(60)]
    table = folder / "table.csv"
    table.write_text("image,width,mode,pixels\n" + "\n".join(lines))
    learned = load_dataset(Data(path=str(table), task="image_regression", target="width"), checks=())
    assert {float(row.values["width"]) for row in learned.records["train"]} <= {round(number / 7, 17) for number in range(60)}
    assert learned.records["train"][0].values[WIDTH] == 96
    classes = load_dataset(Data(path=str(table), task="image_classification", target="mode"))
    assert classes.labels == ("landscape", "portrait")
    table.write_text(table.read_text().replace("pixels", WIDTH, 1))
    with pytest.raises(DataError, match=r"the column 'image\.width' has the name of what is noted of each image itself"):
        load_dataset(Data(path=str(table)))


def test_what_lies_among_the_images_and_is_not_read_is_named(folder: Path) -> None:
    (folder / "labels.csv").write_text("image,age\ncat/001.png,3\n")
    (folder / "cat" / "drawn.svg").write_text("<svg/>")
    (folder / "bird").mkdir()
    (folder / "cat" / ".hidden.svg").write_text("<svg/>")
    found = {one.claim: one.remedy for one in load_dataset(Data(path=str(folder)), ()).findings}
    told = [claim for claim in found if "is not read" in claim or "holds no image" in claim]
    assert told == [
        f"labels.csv lies among the images of {folder} and is not read",
        f"1 image is of a format that is not read, the first {Path('cat/drawn.svg')}",
        f"the sub-folder bird of {folder} holds no image: it is no class",
    ]
    assert str(folder / "labels.csv") in found[told[0]]
