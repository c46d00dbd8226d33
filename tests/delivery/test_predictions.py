"""A file of predictions keeps every column of the rows, and nothing that was there is lost."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, DiskFailed
from luthier.delivery.predictions import WRITERS, name_columns, prepare_output, write_predictions

ROWS: list[dict[str, Any]] = [
    {"text": "good, she said", "predicted_label": "mine", "stars": 5},
    {"text": 'a "quote"\nand a line', "note": None},
]
SAID = [{"label": "yes", "confidence": 0.75}, {"label": None, "confidence": 0.5}]


def prepare(path: Path, rows: Any = ROWS, chat: bool = False, source: Path | None = None, bundle: Path = Path("bundle")) -> None:
    prepare_output(path, rows, chat=chat, source=source, bundle=bundle)


def read_back(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".csv":
        with file.open(newline="") as stream:
            return list(csv.DictReader(stream))
    if file.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    text = file.read_text()
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_format_holds_the_same_columns_and_values(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "new" / "deeper" / f"said{ending}"
    prepare(file)
    assert write_predictions(file, ROWS, SAID) == {"label": "predicted_label_2", "confidence": "predicted_confidence_2"}
    found = read_back(file)
    wanted = [
        {"text": "good, she said", "predicted_label": "mine", "stars": 5, "note": None, "predicted_label_2": "yes", "predicted_confidence_2": 0.75},
        {"text": 'a "quote"\nand a line', "predicted_label": None, "stars": None, "note": None, "predicted_label_2": None, "predicted_confidence_2": 0.5},
    ]  # fmt: skip
    if ending == ".csv":
        wanted = [{name: "" if value is None else str(value) for name, value in row.items()} for row in wanted]
    assert found == wanted
    assert [list(row) for row in found] == [list(row) for row in wanted]
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_tab_separated_file_is_written_where_it_can_hold_the_rows_and_refused_before_predicting_where_not(tmp_path: Path) -> None:
    file = tmp_path / "said.tsv"
    with pytest.raises(DataError, match="cannot hold"):
        prepare(file)
    with pytest.raises(DataError, match="answers may hold line ends"):
        prepare(file, ROWS[:1], chat=True)
    prepare(file, ROWS[:1])
    write_predictions(file, ROWS[:1], SAID[:1])
    assert file.read_text() == (
        "text\tpredicted_label\tstars\tpredicted_label_2\tpredicted_confidence_2\ngood, she said\tmine\t5\tyes\t0.75\n"
    )


@pytest.mark.parametrize("name", ["said.xlsx", "said", "said.txt", "said.csv.gz", "-"])
def test_an_ending_that_names_no_format_is_refused_with_those_that_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be written as[\s\S]*\.csv, \.tsv, \.jsonl, \.json or \.parquet"):
        prepare(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_needed_is_written_over(tmp_path: Path) -> None:
    source, bundle, run = tmp_path / "rows.csv", tmp_path / "shipped", tmp_path / "run"
    source.write_text("text\na\n")
    bundle.mkdir()
    run.mkdir()
    for file in (run / "experiment.yaml", run / "metrics.jsonl"):
        file.write_text("")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "hard.csv").hardlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    for file, message in (
        (source, "where the rows come from"),
        (tmp_path / "run" / ".." / "rows.csv", "where the rows come from"),
        (tmp_path / "link.csv", "where the rows come from"),
        (tmp_path / "hard.csv", "where the rows come from"),
        (bundle / "said.csv", "lies in the bundle"),
        (run / "metrics.jsonl", "in the folder of a run"),
        (tmp_path / "folder.csv", "is a folder"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            prepare(file, source=source, bundle=bundle)
        assert caught.value.remedy
    with pytest.raises(DiskFailed, match=r"said\.csv cannot be written"):
        prepare(source / "said.csv", source=source, bundle=bundle)
    assert source.read_text() == "text\na\n"
    prepare(run / "said.csv", source=source, bundle=bundle)
    texts = tmp_path / "texts"
    texts.mkdir()
    with pytest.raises(DataError, match="where the rows come from"):
        prepare(texts / "said.csv", source=texts, bundle=bundle)


def test_parquet_without_its_library_and_with_mixed_columns_is_refused_before_predicting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="the column 'a' holds values of different kinds"):
        prepare(tmp_path / "said.parquet", [{"a": 1}, {"a": "x"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs pyarrow[\s\S]*pip install 'luthier\[parquet\]'"):
        prepare(tmp_path / "said.parquet")


def test_all_new_columns_share_one_number_where_one_of_them_is_taken() -> None:
    assert name_columns(["text"], ["text"]) == {"text": "predicted_text"}
    taken = ["predicted_confidence", "predicted_label_2"]
    assert name_columns(taken, ["label", "confidence"]) == {"label": "predicted_label_3", "confidence": "predicted_confidence_3"}


def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless_and_lists_are_json(tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    write_predictions(file, [{"a": "=1+1", "b": -2, "c": [{"role": "user"}], "d": True}], [{"text": "@x"}])
    assert read_back(file) == [{"a": "'=1+1", "b": "-2", "c": '[{"role": "user"}]', "d": "true", "predicted_text": "'@x"}]


def test_every_format_writes_no_rows_at_all(tmp_path: Path) -> None:
    for ending in WRITERS:
        prepare(tmp_path / f"said{ending}", [])
        write_predictions(tmp_path / f"said{ending}", [], [])
        assert (tmp_path / f"said{ending}").exists()
