"""Rows that were not given as a file are written down once, so that a run can be resumed and made again."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import DataError, RunError, Stopped
from luthier.core.finding import Finding
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from tests.conftest import rows

QUICK = ["training.steps=2", "optimizer.lr=0.003"]
LINES = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(120))]


def weights(run: Run) -> bytes:
    return (run.folder / "bundle" / "model.safetensors").read_bytes()


def test_rows_in_memory_train_the_same_model_as_their_file(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in LINES))
    base = str(bases("bert").folder)
    first = luthier.run(file, base=base, out=tmp_path / "file", set=QUICK, force=True)
    given = luthier.run(pandas.DataFrame(LINES), base=base, out=tmp_path / "frame", set=QUICK, force=True)
    assert [json.loads(line) for line in (given.folder / "data.jsonl").read_text().splitlines()] == LINES
    assert weights(given) == weights(first)
    again = luthier.train(given.folder / "experiment.yaml", out=tmp_path / "again", force=True)
    assert weights(again) == weights(first)
    monkeypatch.setattr("sys.stdin", io.StringIO("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in LINES)))
    piped = luthier.run("-", base=base, out=tmp_path / "piped", set=QUICK, force=True)
    assert (piped.folder / "data.csv").is_file()
    assert weights(piped) == weights(first)


def test_a_run_on_rows_in_memory_that_was_stopped_is_resumed_without_them(bases, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.run(LINES, base=str(bases("bert").folder), out=tmp_path / "run", set=QUICK, force=True, watchers=[stop])
    assert luthier.resume(tmp_path / "run").verdict is not None


def test_validation_and_test_rows_may_be_in_memory_too(bases, tmp_path: Path) -> None:
    planned = luthier.run(
        LINES[:60], validation=LINES[60:90], test=LINES[90:], base=str(bases("bert").folder), out=tmp_path / "run", plan_only=True
    )
    assert {file.name for file in planned.folder.glob("*.jsonl")} >= {"data.jsonl", "validation.jsonl", "test.jsonl"}
    assert {part: len(found) for part, found in planned.json("splits.json")["rows"].items()} == {"train": 60, "validation": 30, "test": 30}


def test_rows_that_cannot_be_used_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "run", tmp_path / "mine"):
        for wrong in (LINES[:3], [{"text": "x"}, "y"], [], LINES[0], {"text": ["a"], "label": ["b"]}, ["a", "b"], 5):
            with pytest.raises(DataError):
                luthier.run(wrong, out=out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_a_folder_that_holds_something_is_not_taken_for_rows_in_memory(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        luthier.run(LINES, out=tmp_path)
    assert (tmp_path / "data.jsonl").read_text() == "mine"


def test_a_search_keeps_rows_in_memory_in_its_study(bases, tmp_path: Path) -> None:
    study = luthier.search(
        LINES,
        base=str(bases("bert").folder),
        out=tmp_path / "study",
        trials=2,
        set=["training.epochs=2", "optimizer.lr=0.003"],
        force=True,
    )
    assert (tmp_path / "study" / "data.jsonl").is_file()
    assert study.winner is not None


def test_verbs_that_leave_no_folder_take_rows_in_memory(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    base = str(bases("bert").folder)
    assert luthier.check(pandas.DataFrame(LINES), model=False).dataset.count == len(LINES)
    assert luthier.check(LINES[:60], validation=LINES[60:90], test=LINES[90:], model=False).dataset.spec.test
    assert luthier.show(data=LINES, row=3, base=base).line == 3
    assert luthier.similar(LINES, [base])[0].base == base
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in LINES)))
    assert luthier.check("-", model=False).dataset.count == len(LINES)
    with pytest.raises(DataError, match="a Series is one column"):
        luthier.check(pandas.Series(["a"]), model=False)


def test_what_is_shown_of_rows_in_memory_names_what_was_given_and_no_file_of_ours(bases) -> None:
    said: list[str] = []

    class Shown(NullReporter):
        def stage(self, name: str, detail: str = "") -> None:
            said.append(f"{name}: {detail}")

        def finding(self, finding: Finding) -> None:
            said.append(f"{finding.claim} {finding.remedy}")

    luthier.check(LINES[:90], test=[*LINES[:5], *LINES[90:]], model=False, reporter=Shown())
    assert "data: the list" in said
    assert any("test" in line for line in said)
    assert not [line for line in said if "luthier-" in line]


def test_an_error_in_rows_from_memory_names_what_was_given_and_no_file_of_ours() -> None:
    with pytest.raises(DataError, match=r"^the list has only the column 'number'"):
        luthier.check([{"number": str(number)} for number in range(60)], model=False)
