"""Rows in memory are read for what they are, or refused by name."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data.sources.frames import format_of, json_lines, read_frame

ROWS = [{"text": "one", "label": "a", "stars": 1}, {"text": "two", "label": None, "stars": 2}]


class Polars:
    """A table that offers what polars does (its `to_dict` takes no "records")."""

    columns = ("text", "label", "stars")

    def to_dicts(self) -> list[dict[str, Any]]:
        return ROWS

    def to_dict(self, *, as_series: bool = True) -> dict[str, Any]:
        raise AssertionError


class Datasets:
    """A table that offers what a data set of the datasets library does."""

    column_names = ("text", "label", "stars")

    def to_list(self) -> list[dict[str, Any]]:
        return ROWS

    def to_dict(self) -> dict[str, Any]:
        raise AssertionError


class Stream:
    """A table that offers Arrow's stream and nothing else."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(schema)


class Protocol:
    """A table that offers the data frame protocol and nothing else."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __dataframe__(self, *words: Any, **options: Any) -> Any:
        return self.table.__dataframe__(*words, **options)


def test_every_kind_of_table_gives_the_same_rows() -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(ROWS)
    kinds = [ROWS, tuple(ROWS), pandas.DataFrame(ROWS), pandas.DataFrame(ROWS, index=[7, 7]), table, table.to_batches()[0], Polars(), Datasets(),
             Stream(table), Protocol(table), pandas.DataFrame(ROWS, dtype="string[python]").astype({"stars": "int64"})]  # fmt: skip
    for kind in kinds:
        assert read_frame(kind) == ROWS, type(kind)
    assert read_frame(ROWS[0]) == ROWS[:1]


def test_cells_become_what_json_holds() -> None:
    row = {"a": float("nan"), "b": np.float32("nan"), "c": np.int64(3), "d": np.str_("x"), "e": date(2026, 1, 2), "f": float("inf"), 7: np.array([1, 2]),
           "g": b"\x01", "h": [{"role": "user", "n": np.float64(0.5)}], "i": True}  # fmt: skip
    (found,) = read_frame(row)
    assert found == {"a": None, "b": None, "c": 3, "d": "x", "e": "2026-01-02", "f": "inf", "7": [1, 2], "g": "01", "h": [{"role": "user", "n": 0.5}], "i": True}  # fmt: skip
    assert json.loads(json_lines([found])) == found
    assert json_lines([{"text": "half \ud800"}]).encode()  # reading sets such a row aside by name
    pandas = pytest.importorskip("pandas")
    assert read_frame(pandas.DataFrame({"a": [pandas.NaT, pandas.NA], "b": [pandas.Timestamp("2026-01-02"), None]})) == [
        {"a": None, "b": "2026-01-02T00:00:00"},
        {"a": None, "b": None},
    ]


def test_what_holds_no_rows_is_refused_by_name() -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    wrong = [
        (pandas.Series(["a"], name="text"), "a Series is one column"),
        (np.array(["a"]), "a ndarray is one column"),
        (np.array([["a"]]), "a ndarray is not something"),
        (pyarrow.array(["a"]), "row 1 is a str, not a dict"),
        (iter(ROWS), "a list_iterator is not something"),
        ({"a"}, "a set is not something"),
        (5, "an int \\(5\\) is not something"),
        ([ROWS[0], "text"], "row 2 is a str, not a dict"),
        ([ROWS[0], None], "row 2 is None, not a dict"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "the column 'a' is there twice"),
    ]
    for given, message in wrong:
        with pytest.raises(DataError, match=message) as caught:
            read_frame(given)
        assert caught.value.remedy


@pytest.mark.parametrize(
    "content, columns, kind",
    [
        ('{"text": "a"}\n{broken', ["text"], "jsonl"),
        ('\n[{"text": "a"},\n {"text": "b"}]', ["text"], "json"),
        ("[ok] all is well\nfine", ["text"], "lines"),
        ("{name} was here", ["text"], "lines"),
        ('["a", "b"]', ["text"], "lines"),
        ("12\n13", ["text"], "lines"),
        ("label,text\na,b", ["text"], "csv"),
        ('"text","label"\na,b', ["text"], "csv"),
        ("\ufefftext\nwell", ["text"], "csv"),
        ("text\tlabel\na\tb", ["text", "label"], "tsv"),
        ("the text, and more\nwell", ["text"], "lines"),
        ("a,b\n1,2", [], "csv"),
        ("a\tb\n1\t2", [], "tsv"),
        ("First Citizen:\nBefore we proceed, hear me speak.", [], "txt"),
        ('text\n"well, then"\ngood', [], "csv"),
    ],
)
def test_the_format_of_a_pipe_is_told_from_its_beginning(content: str, columns: list[str], kind: str) -> None:
    assert format_of(content.encode(), columns) == kind
