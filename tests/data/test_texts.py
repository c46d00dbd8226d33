"""A folder of texts: its sub-folders are the labels, and a stray file does not hide that."""

from __future__ import annotations

from pathlib import Path

from luthier.data.row_files import FileOfRows
from luthier.data.sources.texts import read_texts
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset


def folder_of(folder: Path, stray: int) -> Path:
    for number in range(60):
        label = ("praise", "complaint")[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.txt").write_text(f"the {label} number {number} says something of its own, {number * 7}")
    for number in range(stray):
        (folder / f"NOTES-{number}.txt").write_text("notes that someone kept beside the folders")
    return folder


def test_a_stray_file_beside_the_sub_folders_is_left_out_by_name_and_they_stay_the_labels(tmp_path: Path) -> None:
    found = load_dataset(Data(path=str(folder_of(tmp_path / "texts", stray=1))), checks=())
    assert found.labels == ("complaint", "praise")
    assert found.count == 60
    assert any("1 file beside the sub-folders left out (NOTES-0.txt)" in one.claim for one in found.findings)
    assert [each.reason for each in found.rejected] == ["it lies in no sub-folder, so it has no label"]


def test_where_many_files_lie_beside_sub_folders_these_are_no_labels(tmp_path: Path) -> None:
    found = read_texts(FileOfRows(folder_of(tmp_path / "texts", stray=30)))
    assert found.columns == ["text", "file"]
    assert len(found.values) == 90
    assert not found.rejected
