"""Reading is exact, splitting is by construction."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections import Counter
from encodings.aliases import aliases
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.data.split import folds, split
from luthier.families.recognise import load_dataset, recognise
from tests.data.test_malformed import sentence


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_a_cell_stays_the_text_it_was(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", 'id,label,text\n007,NA,"a, ""b""\nc"\n1e5,null,d\u2028e\n')
    assert read(file).values == [{"id": "007", "label": "NA", "text": 'a, "b"\nc'}, {"id": "1e5", "label": "null", "text": "d\u2028e"}]


def test_only_a_line_feed_ends_a_json_line(tmp_path: Path) -> None:
    rows = [{"text": f"a{mark}b"} for mark in "\u2028\u2029\x85\x0b\x0c"]
    file = write(tmp_path, "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read(file).values == rows


@pytest.mark.parametrize(
    "encoding, said",
    [("utf-16", "byte order mark"), ("UTF_16", "byte order mark"), ("undefined", "no encoding of texts"), ("nope", "no encoding of texts")],
)
@pytest.mark.parametrize("content", [b"text,label\ncaf\xc3\xa9,x\n", b"a"])
def test_an_encoding_that_the_file_does_not_have_or_that_is_none_is_refused(
    tmp_path: Path, encoding: str, said: str, content: bytes
) -> None:
    with pytest.raises(DataError, match=said):
        read(write(tmp_path, "a.csv", content), encoding=encoding)


def test_no_codec_of_python_ends_in_another_error(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "text,label\ncafé,x\n")
    for codec in sorted(set(aliases.values())):
        with contextlib.suppress(DataError):
            read(file, encoding=codec)


@pytest.mark.parametrize("mark, encoding", [("utf-8-sig", "utf-8"), ("utf-16", "utf-8"), ("cp1252", "cp1252")])
def test_a_byte_order_mark_or_a_named_encoding_is_honoured(tmp_path: Path, mark: str, encoding: str) -> None:
    file = write(tmp_path, "a.csv", "text,label\ncafé,x\n".encode(mark))
    assert read(file, encoding=encoding).values == [{"text": "café", "label": "x"}]


def test_a_first_line_of_values_is_not_taken_for_names(tmp_path: Path) -> None:
    without = write(tmp_path, "a.tsv", "".join(f"sentence {n}\t{n % 2}\n" for n in range(40)))
    named = write(tmp_path, "b.tsv", "text\tlabel\n" + without.read_text())
    assert read(without).columns == ["column_1", "column_2"]
    assert len(read(without).values) == len(read(named).values) == 40
    assert read(named).columns == ["text", "label"]


def test_rows_of_another_width_are_set_aside_with_their_line(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "text,label\na,x\nb\nc,y,z\nd,x\ne,y\n")
    rows = read(file)
    assert [(row.line, row.reason) for row in rows.rejected] == [(3, "1 cell where 2 are expected"), (4, "3 cells where 2 are expected")]
    assert rows.lines == [2, 5, 6]


@pytest.mark.parametrize("line", ["{broken", '{"a": 1, "a": 2}', '{"a": NaN}', "[1]", "null", '{"a": "\\ud800"}', "[" * 100_000])
def test_a_line_that_is_not_an_object_is_set_aside(tmp_path: Path, line: str) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"a": "x"}\n' + line + '\n{"a": "y"}\n'))
    assert [row["a"] for row in rows.values] == ["x", "y"]
    assert [row.line for row in rows.rejected] == [2]


@settings(max_examples=300, deadline=2000)
@given(content=st.binary(max_size=400), name=st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl"]))
def test_any_bytes_either_load_or_raise_our_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    file = write(tmp_path_factory.mktemp("any"), name, content)
    try:
        read(file)
    except DataError as problem:
        assert problem.remedy


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), min_size=40, max_size=150),
    seed=st.integers(0, 5),
)
def test_every_row_lands_in_one_part_and_duplicates_in_the_same(rows: list[tuple[int, str]], seed: int) -> None:
    keys, strata = [str(key) for key, _ in rows], [label for _, label in rows]
    try:
        parts = split(keys, strata, {"validation": 0.1, "test": 0.2}, seed)
    except DataError:
        return
    assert sorted(row for part in parts.values() for row in part) == list(range(len(rows)))
    where = {key: {part for part, members in parts.items() for row in members if keys[row] == key} for key in keys}
    assert all(len(places) == 1 for places in where.values())
    assert parts == split(keys, strata, {"validation": 0.1, "test": 0.2}, seed)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=30, max_size=80), st.integers(2, 6))
def test_every_row_is_in_one_fold_copies_in_the_same_and_classes_in_proportion(pairs: list[tuple[int, str]], count: int) -> None:
    keys = [key if key < 4 else 100 + number for number, (key, _) in enumerate(pairs)]
    kinds = [kind for _, kind in pairs]
    found = folds(keys, kinds, count, 1)
    assert sorted(row for fold in found for row in fold) == list(range(len(pairs)))
    place = {row: number for number, fold in enumerate(found) for row in fold}
    assert all(place[one] == place[two] for one in place for two in place if keys[one] == keys[two])
    if len(set(keys)) == len(keys):
        for kind in "ab":
            sizes = [sum(kinds[row] == kind for row in fold) for fold in found]
            assert max(sizes) - min(sizes) <= 1


def test_each_class_is_in_each_part_in_its_share() -> None:
    strata = ["a"] * 800 + ["b"] * 150 + ["c"] * 10
    parts = split([str(number) for number in range(960)], strata, {"validation": 0.1, "test": 0.2}, 0)
    for part, share in (("validation", 0.1), ("test", 0.2)):
        counts = Counter(strata[row] for row in parts[part])
        assert counts == {"a": round(800 * share), "b": round(150 * share), "c": max(1, round(10 * share))}


CHAT: list[tuple[dict[str, object], tuple[str, ...], str]] = [
    ({"messages": []}, ("messages",), "messages"),
    ({"conversations": []}, ("conversations",), "conversations"),
    ({"instruction": "a", "input": "b", "output": "c"}, ("instruction", "input"), "output"),
    ({"instruction": "a", "output": "c"}, ("instruction",), "output"),
    ({"prompt": "a", "completion": "c"}, ("prompt",), "completion"),
    ({"question": "a", "answer": "c"}, ("question",), "answer"),
]


@pytest.mark.parametrize("row, input, target", CHAT)
def test_the_shapes_of_conversations_are_known(row: dict[str, object], input: tuple[str, ...], target: str) -> None:
    rows = Rows(columns=list(row), values=[{**row, target: f"{row[target]}{number}"} for number in range(40)], lines=list(range(40)))
    _, shape = recognise(rows, "a.jsonl", Data(path="a.jsonl"))
    assert (shape.task, shape.input, shape.target) == ("chat", input, target)


def test_the_label_and_the_text_are_found_and_can_be_named(tmp_path: Path) -> None:
    lines = [{"id": f"{n:04}", "source": "abc"[n % 3], "review": f"a longer text {n} to be read", "rating": str(n % 5)} for n in range(60)]
    file = write(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = load_dataset(Data(path=str(file)))
    assert (found.spec.input, found.spec.target, found.labels) == (("review",), "rating", ("0", "1", "2", "3", "4"))
    named = load_dataset(Data(path=str(file), target="source", input=("id", "review")))
    assert (named.spec.input, named.spec.target, named.labels) == (("id", "review"), "source", ("a", "b", "c"))


def test_given_splits_are_kept_and_tested_for_leakage(tmp_path: Path) -> None:
    words = [
        "alpha",
        "bravo",
        "charlie",
        "delta",
        "echo",
        "foxtrot",
        "golf",
        "hotel",
        "india",
        "juliet",
        "kilo",
        "lima",
        "mike",
        "november",
    ]

    def sentence(number: int) -> str:
        return " ".join(words[(number * step + number // 14) % 14] for step in (1, 3, 5, 7, 9)) + f" {number}"

    for part, start, count in (("train", 0, 60), ("dev", 60, 20), ("test", 80, 20)):
        write(tmp_path, f"{part}.tsv", "text\tlabel\n" + "".join(f"{sentence(n)}\t{'ab'[n % 2]}\n" for n in range(start, start + count)))
    write(tmp_path, "test.tsv", (tmp_path / "test.tsv").read_text() + f"{sentence(3).upper()}\tb\n")
    with pytest.raises(DataError, match=r"1 of 21 given test rows are also training rows.*test.tsv, line 22 \(training line 5\)"):
        load_dataset(Data(path=str(tmp_path)))
    found = load_dataset(Data(path=str(tmp_path), allow_leakage=True))
    assert {part: len(rows) for part, rows in found.records.items()} == {"train": 60, "validation": 20, "test": 21}
    assert any(finding.check == "leakage" and finding.evidence["count"] == 1 for finding in found.findings)


def test_one_file_or_the_same_rows_for_validation_and_test_are_refused(tmp_path: Path) -> None:
    def rows(start: int, count: int) -> str:
        return "text,label\n" + "".join(f"{sentence(n)},{'ab'[n % 2]}\n" for n in range(start, start + count))

    train, held = write(tmp_path, "train.csv", rows(0, 60)), write(tmp_path, "held.csv", rows(60, 20))
    with pytest.raises(DataError, match=r"held.csv is given as the validation file and as the test file"):
        load_dataset(Data(path=str(train), validation=str(held), test=str(held)))
    copy = write(tmp_path, "copy.csv", rows(60, 20))
    with pytest.raises(DataError, match=r"20 of 20 given test rows are also validation rows[\s\S]*out of the validation or the test file"):
        load_dataset(Data(path=str(train), validation=str(copy), test=str(held)))


def test_all_rows_of_the_training_file_are_compared_with_a_given_test_file_whichever_part_they_are_in(tmp_path: Path) -> None:
    lines = [f"{sentence(n)},{'ab'[n % 2]}\n" for n in range(80)]
    train, test = (
        write(tmp_path, "train.csv", "text,label\n" + "".join(lines)),
        write(tmp_path, "test.csv", "text,label\n" + "".join(lines[:40])),
    )
    found = load_dataset(Data(path=str(train), test=str(test), allow_leakage=True))
    (leak,) = [one for one in found.findings if one.check == "leakage"]
    assert leak.claim == "40 of 40 given test rows are also training rows"
    assert {line for _, line in leak.evidence["drop"]} == set(range(2, 42))
    assert any(row.row in range(2, 42) for row in found.records["validation"])


@pytest.mark.parametrize("task, target", [("classification", "label"), ("regression", "stars"), (None, "label"), (None, "stars")])
def test_what_is_learned_is_not_read_and_no_column_twice(tmp_path: Path, task: str | None, target: str) -> None:
    lines = [{"text": sentence(n), "label": "ab"[n % 2], "stars": n % 9 / 2} for n in range(60)]
    file = str(write(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    for input in ((target,), ("text", target)):
        with pytest.raises(DataError, match=rf"'{target}' is to be read and to be learned[\s\S]*leave it out of --input"):
            load_dataset(Data(path=file, task=task, input=input, target=target))
    with pytest.raises(DataError, match="'text' is named twice in --input"):
        load_dataset(Data(path=file, task=task, input=("text", "text"), target=target))
    chat = [{"messages": [{"role": "user", "content": sentence(n)}, {"role": "assistant", "content": "yes"}]} for n in range(60)]
    talk = str(write(tmp_path, "chat.jsonl", "".join(json.dumps(line) + "\n" for line in chat)))
    assert load_dataset(load_dataset(Data(path=talk)).spec).spec.input == ("messages",)  # a conversation holds both


def test_too_few_different_rows_are_counted() -> None:
    with pytest.raises(DataError, match=r"60 rows are too few for a split, 2 where copies and near-duplicates count once[\s\S]*--input"):
        split(["a", "b"] * 30, ["x", "y"] * 30, {"validation": 0.1, "test": 0.2}, 0)


def test_few_answers_are_conversations_where_a_person_insists(tmp_path: Path) -> None:
    lines = [{"question": sentence(n), "answer": ["yes", "no"][n % 2]} for n in range(60)]
    file = str(write(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert load_dataset(Data(path=file)).spec.task == "classification"
    found = load_dataset(Data(path=file, task="chat")).spec
    assert (found.task, found.input, found.target) == ("chat", ("question",), "answer")


def test_where_most_rows_are_set_aside_the_remedy_is_to_mend_them(tmp_path: Path) -> None:
    lines = [{"text": sentence(n), "label": ["a", "b"] if n % 3 else "a"} for n in range(60)]
    file = str(write(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    with pytest.raises(DataError, match=r"a row has one class[\s\S]*mend the rows[\s\S]*--task multi_label"):
        load_dataset(Data(path=file, task="classification"))
    few = str(write(tmp_path, "few.jsonl", "".join(json.dumps(line) + "\n" for line in lines[:9])))
    with pytest.raises(DataError, match="give more rows"):
        load_dataset(Data(path=few, task="classification"))


def test_a_sheet_is_asked_of_workbooks_only_and_one_fold_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "text,label\na,b\n")
    with pytest.raises(DataError, match="has no sheets"):
        read(file, sheet="2024")
    with pytest.raises(ValueError, match="one fold leaves nothing to train on"):
        Data(path="a.csv", folds=1)


def test_commas_in_a_text_file_are_named_also_where_texts_hold_some_in_quotes(tmp_path: Path) -> None:
    lines = "".join(f'"{sentence(n)}{", and more" * (n % 3)}",{"ab"[n % 2]}\n' for n in range(60))
    with pytest.raises(DataError, match=r"holds 2 cells with commas[\s\S]*--set data.format=csv"):
        read(write(tmp_path, "a.txt", "text,label\n" + lines))
    assert len(read(write(tmp_path, "a.csv.txt", "text,label\n" + lines), format="csv").values) == 60
    prose = "".join(f"{sentence(n)}, and then, {n}\n" for n in range(60))
    assert len(read(write(tmp_path, "b.txt", prose), header=False).values) == 60


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_beside_the_train_file_that_is_not_read_is_named_with_the_way_to_read_it(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, start, count in (("train.csv", 0, 60), ("testing.csv", 60, 20), ("dataset_info.json", 0, 0)):
        write(folder, name, "text,label\n" + "".join(f"{sentence(n)},{'ab'[n % 2]}\n" for n in range(start, start + count)))
    place = folder
    if packed:
        place = tmp_path / "rows.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name in ("train.csv", "testing.csv"):
                archive.write(folder / name, name)
    (told,) = [one for one in load_dataset(Data(path=str(place)), checks=()).findings if one.check == "files"]
    assert told.claim == f"{place}: testing.csv is not read: only tables named train, validation or test are"
    assert f"--test {place / 'testing.csv'}" in told.remedy
    read = load_dataset(Data(path=str(place), test=str(place / "testing.csv")), checks=())
    assert len(read.records["test"]) == 20
    assert not [one for one in read.findings if one.check == "files"]
