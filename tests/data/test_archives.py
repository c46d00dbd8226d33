"""Tables in gzip and zip files: read as if they were unpacked, or refused with the remedy."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.row_files import names_table
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from tests.data.test_malformed import PLAIN, jsonl, rows, sentence, table

WRITTEN = {
    "csv": table(PLAIN),
    "tsv": table([line.replace(",", "\t") for line in PLAIN], "text\tlabel"),
    "jsonl": jsonl(rows()),
    "json": f"[{','.join(jsonl(rows()).splitlines())}]",
}


def zip_file(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


@pytest.mark.parametrize("kind", sorted(WRITTEN))
def test_a_table_in_gzip_or_zip_is_read_as_the_same_rows_on_the_same_lines(kind: str, tmp_path: Path) -> None:
    plain = tmp_path / f"rows.{kind}"
    plain.write_text(WRITTEN[kind])
    packed = tmp_path / f"packed.{kind}.gz"
    packed.write_bytes(gzip.compress(WRITTEN[kind].encode()))
    archive = zip_file(tmp_path / "packed.zip", **{f"inner__{kind}": WRITTEN[kind], "README__md": "read me"})
    expected = read(plain)
    for path in (packed, archive):
        found = read(path)
        assert (found.columns, found.values, found.lines) == (expected.columns, expected.values, expected.lines)


def test_the_fingerprint_is_of_the_file_as_it_lies_there(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "rows.zip", rows__csv=WRITTEN["csv"])
    found = load_dataset(Data(path=str(path)), checks=())
    assert found.spec.fingerprint == {"train": hashlib.sha256(path.read_bytes()).hexdigest()}
    again = load_dataset(found.spec, checks=())  # as a resumed run reads it
    assert [record.values for record in again.records["test"]] == [record.values for record in found.records["test"]]


def test_train_and_test_files_in_a_zip_are_the_parts_of_the_split(tmp_path: Path) -> None:
    tests = table([f"{sentence(number)},{'ab'[number % 2]}" for number in range(300, 330)])
    path = zip_file(
        tmp_path / "rows.zip", **{"set/train__csv": WRITTEN["csv"], "set/test__csv": tests, "__MACOSX/set/._train__csv": b"\0\1"}
    )
    found = load_dataset(Data(path=str(path)), checks=())
    assert len(found.records["test"]) == 30
    assert found.spec.test == str(path / "set/test.csv")
    with pytest.raises(DataError, match=r"holds 2 tables: .*[\s\S]*name one of them: .*rows\.zip/set/test\.csv") as caught:
        read(path)
    assert len(read(Path(caught.value.remedy.removeprefix("name one of them: "))).values) == 30


def test_an_unreadable_archive_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    whole = gzip.compress(WRITTEN["csv"].encode())
    cut, other, bomb = tmp_path / "cut.csv.gz", tmp_path / "plain.csv.gz", tmp_path / "bomb.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    other.write_text(WRITTEN["csv"])
    bomb.write_bytes(gzip.compress(b"text,label\n" + b"a,a\n" * (20 << 20)))
    named = tmp_path / "named.csv"
    named.write_bytes(whole)
    pictures = zip_file(tmp_path / "pictures.zip", one__png=b"\x89PNG")
    parquet = tmp_path / "rows.parquet.gz"
    parquet.write_bytes(whole)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    for path, words in (
        (cut, "is damaged"),
        (other, r"is not compressed with gzip[\s\S]*name it plain\.csv"),
        (bomb, "unpacks to more than .* MiB"),
        (named, r"is compressed \(gzip\)[\s\S]*name it named\.csv\.gz"),
        (pictures, "holds no table of rows .* but one.png"),
        (parquet, "parquet files are not read from compressed ones"),
        (broken, "not a sound zip file"),
        (zip_file(tmp_path / "there.zip", rows__csv=WRITTEN["csv"]) / "row.csv", r"holds no 'row\.csv'[\s\S]*did you mean 'rows\.csv'"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            read(path)
        assert caught.value.remedy


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "rows.zip", rows__csv=WRITTEN["csv"])
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + place] |= 1  # the bit that says so
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"is encrypted[\s\S]*password"):
        read(path)


@pytest.mark.parametrize("name", ["rows.xls", "rows.ods", "rows.tar.gz", "rows.csv.bz2", "rows.pkl"])
def test_a_kind_of_file_that_is_not_read_says_what_to_do(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(DataError, match="names no format that is read") as caught:
        read(tmp_path / name)
    assert caught.value.remedy.startswith(("open it in a spreadsheet program", "unpack it", "save the table"))
    assert names_table(tmp_path / name)
