"""What a page is called, and what of it is folded."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.delivery.page import collapsible, table, title_of
from luthier.delivery.report import SHOWN_CLASSES, _classes


@pytest.mark.parametrize(
    "path, title",
    [
        ("feedback.csv", "feedback"),
        ("somewhere/feedback.csv.gz", "feedback"),
        ("clinc150/train.csv", "clinc150"),
        ("clinc150/data/train.parquet", "clinc150"),
        ("clinc150/data/rows.jsonl", "clinc150"),
        ("clinc150", "clinc150"),
        ("clinc150/", "clinc150"),
        ("/train.csv", "train"),
    ],
)
def test_a_page_is_named_after_the_folder_where_the_files_name_says_nothing(path: str, title: str) -> None:
    assert title_of(path) == title


def test_the_folder_counts_also_where_the_command_was_typed_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tickets").mkdir()
    monkeypatch.chdir(tmp_path / "tickets")
    assert title_of("train.csv") == "tickets"


def test_of_many_classes_only_the_weakest_stand_open() -> None:
    rows = [(f"class {number}", 10, "0.5", "0.5", "0.5") for number in range(SHOWN_CLASSES + 5)]
    shown, _, rest = _classes(rows).partition("<details>")
    assert shown.count("<tr>") == SHOWN_CLASSES + 1
    assert "the other 5 classes" in rest
    assert rest.count("<tr>") == 6
    assert "<details>" not in _classes(rows[:SHOWN_CLASSES])
    assert collapsible("more", "body") == "<details><summary>more</summary>body</details>"


def test_a_number_and_its_unit_stay_in_one_line_of_a_table() -> None:
    cells = table(["part"], [["53.3 % [42.6 %, 63.9 %]"], ["+38.5 points [+25.4 points, +51.6 points]"], ["5 pointsmen"]])
    assert "53.3\u00a0% [42.6\u00a0%, 63.9\u00a0%]" in cells
    assert "+38.5\u00a0points [+25.4\u00a0points, +51.6\u00a0points]" in cells
    assert "5 pointsmen" in cells
