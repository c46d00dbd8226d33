"""`luthier transfer`: the same rows for every start, finished models are kept, a budget is obeyed, and the sentence follows from the table."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ExperimentError, LuthierError, RunError
from luthier.core.interfaces import NullReporter
from luthier.core.run import Clock, Run
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.pilot import transfer_comparison as comparison
from luthier.pilot.stages.transfer_table import compare_starts
from luthier.pilot.transfer import Transfer
from luthier.pilot.transfer_cells import find_starts, with_rows
from tests.conftest import rows
from tests.families.test_image_classification import write as write_shapes

QUICK = ["training.steps=3", "training.batch_size=8"]
ASKED: dict[str, Any] = {"set": QUICK, "metric": "log_loss", "most_test": 20}
"""So few steps change no class, but every loss."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(240))))
    return file


@pytest.fixture(scope="module")
def done(table: Path, bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Transfer:
    base = str(bases("bert").folder)
    return luthier.transfer(table, ["scratch", base, f"{base}/../bert"], rows="16,all", seeds=2, **ASKED,
                            out=tmp_path_factory.mktemp("out") / "transfer")  # fmt: skip


@pytest.fixture
def copied(done: Transfer, tmp_path: Path) -> Path:
    """The finished folder, of which a test may take something away."""
    return shutil.copytree(done.folder, tmp_path / "copied")


def test_fewer_rows_are_among_more_with_the_classes_in_proportion_and_the_same_for_every_start(table: Path) -> None:
    dataset = load_dataset(Data(path=str(table)), checks=())
    few, more, other = (with_rows(dataset, count, seed, 20) for count, seed in ((16, 1), (40, 1), (16, 2)))
    names = [[record.row for record in part.records["train"]] for part in (few, more, other)]
    assert names[1][:16] == names[0]
    assert set(names[2]) != set(names[0])
    assert Counter(record.values["label"] for record in few.records["train"]) == {"yes": 8, "no": 8}
    assert [record.row for record in few.records["test"]] == [record.row for record in other.records["test"]]
    assert len(few.records["test"]) == 20
    assert len(few.records["validation"]) == min(20, len(dataset.records["validation"]))
    held = {(record.source, record.row) for record in dataset.records["test"]}
    assert not held & {(record.source, record.row) for part in ("train", "validation") for record in more.records[part]}


def test_every_start_is_in_the_table_and_what_follows_is_said(done: Transfer) -> None:
    found = json.loads((done.folder / "transfer.json").read_text())
    assert found == json.loads(json.dumps(done.found))
    assert found["against"] == "scratch"
    assert (found["metric"], found["test_rows"], found["left_out"]) == ("loss", 20, [])
    assert [(line["rows"], line["seeds"]) for line in found["table"] if line["start"] == "scratch"] == [(16, 2), (len_train(done), 2)]
    assert len(found["gains"]) == 4
    assert len(found["sentences"]) == 2
    page = (done.folder / "report.html").read_text()
    assert "against labelled rows" in page
    assert "<script" not in page
    assert all(sentence.split(";")[0].split("[")[0] in page for sentence in found["sentences"])
    assert not (done.folder / "work").exists()


def len_train(done: Transfer) -> int:
    return max(line["rows"] for line in done.found["table"])


def test_the_same_start_under_two_names_differs_by_nothing(done: Transfer) -> None:
    """Paired to the last row: any other training row, seed or test row for one of the two would be seen."""
    one, other = (
        [(line["rows"], line["each"], line["low"], line["high"]) for line in done.found["table"] if line["start"] == start["name"]]
        for start in done.found["starts"][1:]
    )
    assert one == other
    assert one != [(line["rows"], line["each"], line["low"], line["high"]) for line in done.found["table"] if line["start"] == "scratch"]


def test_finished_models_are_kept_and_more_may_be_asked_for(
    done: Transfer, table: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = comparison.train_cell

    def count(*given: Any) -> dict[str, Any]:
        trained.append(given[2].name)
        return real(*given)

    monkeypatch.setattr(comparison, "train_cell", count)
    base = done.found["starts"][1]["name"]
    (next((copied / "cells").glob("*-16-1.json"))).unlink()  # as if the process had been killed in it
    more = luthier.transfer(table, f"scratch,{base}", rows="16,24,all", seeds=1, **ASKED, out=copied)
    assert len(trained) <= 3
    assert sorted({line["rows"] for line in more.found["table"]})[:2] == [16, 24]
    with pytest.raises(RunError, match="compares starts on something else: set was"):
        luthier.transfer(table, f"scratch,{base}", rows="16", seeds=1, **{**ASKED, "set": ["training.steps=4"]}, out=copied)


def test_a_start_that_cannot_serve_the_rows_is_left_out_with_its_reason(done: Transfer, table: Path, bases: Any, tmp_path: Path) -> None:
    from luthier.models import vision

    network = vision.make_network(["a", "b"], 1, 16, 8, 1, 0.0, 0).network
    network.save_pretrained(tmp_path / "images")
    base = str(bases("bert").folder)
    found = luthier.transfer(table, [str(tmp_path / "images"), base], rows="16", seeds=1, **ASKED, out=tmp_path / "out").found
    assert "is a network for images" in found["starts"][0]["why_not"]
    assert found["against"] == base
    assert found["sentences"] == ["one start alone says nothing of transfer"]
    with pytest.raises(LuthierError, match="is a network for images") as problem:
        luthier.transfer(table, str(tmp_path / "images"), rows="16", seeds=1, set=QUICK, out=tmp_path / "none")
    assert problem.value.remedy


def test_a_wrong_change_is_no_fault_of_the_starts(table: Path, bases: Any, tmp_path: Path) -> None:
    for wrong, remedy in ({"metric": "accurcy"}, "did you mean 'accuracy'"), ({"set": ["optimzer.lr=1"]}, "did you mean 'optimizer'"):
        with pytest.raises(ExperimentError, match=r"^there is no") as problem:
            luthier.transfer(table, ["scratch", str(bases("bert").folder)], rows="16", seeds=1, out=tmp_path / "out", **wrong)
        assert remedy in (problem.value.remedy or "")


def test_a_budget_leaves_out_what_no_longer_fits_and_says_so(
    done: Transfer, table: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (copied / "cells").glob("*-all-*.json"):
        file.unlink()
    for file in (copied / "cells").glob("*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 1000.0}))
    monkeypatch.setattr(comparison, "train_cell", lambda *given: pytest.fail("there was no time for it"))
    base = done.found["starts"][1]["name"]
    found = luthier.transfer(table, f"scratch,{base}", rows="16,all", seeds=2, budget="300s", **ASKED, out=copied).found
    assert found["left_out"] == ["all rows, seed 1", "all rows, seed 2"]
    assert {line["rows"] for line in found["table"]} == {16}


def test_a_model_that_outlasts_the_budget_is_given_up(table: Path, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "__call__", lambda clock: 1e6)
    with pytest.raises(ExperimentError, match="the budget was spent before one model was finished"):
        luthier.transfer(table, str(bases("bert").folder), rows="16", seeds=1, budget="60s", **ASKED, out=tmp_path / "out")
    assert not list((tmp_path / "out" / "cells").iterdir())


def test_every_model_that_a_spent_budget_leaves_out_is_listed(
    done: Transfer, table: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three starts is given up in its training: the third, that was not begun, is missing too."""
    for file in (copied / "cells").glob("*-all-2.json"):
        file.unlink()
    real, trained = comparison.train_cell, []

    def once(*given: Any) -> dict[str, Any]:
        trained.append(given[2].name)
        if len(trained) > 1:
            raise comparison.BudgetSpent
        return real(*given)

    monkeypatch.setattr(comparison, "train_cell", once)
    names = [start["name"] for start in done.found["starts"]]
    found = luthier.transfer(table, names, rows="16,all", seeds=2, budget="1h", **ASKED, out=copied).found
    assert trained == names[:2]
    assert found["left_out"] == [f"{names[1]} and {names[2]} on all rows, seed 2"]
    assert f"{names[2]} on all rows, seed 2" in (copied / "report.html").read_text()


def test_what_is_finished_is_read_from_its_file_once(done: Transfer, table: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = Run.json, Counter[str]()

    def count(place: Run, name: str) -> Any:
        opened[name] += name.startswith("cells/")
        return real(place, name)

    monkeypatch.setattr(Run, "json", count)
    names = [start["name"] for start in done.found["starts"]]
    again = luthier.transfer(table, names, rows="16,all", seeds=2, **ASKED, out=copied)
    assert again.found == done.found
    assert sum(opened.values()) == 12
    assert max(opened.values()) == 1


def test_new_weights_are_drawn_in_the_network_of_the_first_base(table: Path, bases: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from luthier.models.random_base import write_random_base
    from luthier.models.store import resolve

    dataset = load_dataset(Data(path=str(table)), checks=())
    base = str(bases("bert").folder)
    scratch, given = find_starts(["scratch", base], dataset, NullReporter())
    assert (scratch.redrawn, scratch.base, given.redrawn) == (True, base, False)
    assert "new weights" in scratch.about
    made = [
        load_file(write_random_base(resolve(base), tmp_path / str(number), seed) / "model.safetensors")
        for number, seed in enumerate((1, 1, 2))
    ]
    name = "embeddings.word_embeddings.weight"
    assert bool((made[0][name] == made[1][name]).all())
    assert not bool((made[0][name] == made[2][name]).all())
    assert made[0][name].shape == load_file(bases("bert").folder / "model.safetensors")["bert." + name].shape


def test_images_are_compared_too(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path, count=90)
    found = luthier.transfer(
        shapes, "scratch", rows="16", seeds=1, set=["objective.side=16", "objective.width=8", *QUICK], out=tmp_path / "out"
    ).found
    assert [(line["start"], line["rows"]) for line in found["table"]] == [("scratch", 16)]
    assert found["starts"][0]["about"] == "nothing pretrained"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"starts": ""}, "no start was named"),
        ({"starts": "scratch,scratch"}, "scratch is named twice"),
        ({"starts": "scratch", "rows": "50,some"}, "'some' is no number of training rows"),
        ({"starts": "scratch", "rows": "2"}, "'2' is no number of training rows"),
        ({"starts": "scratch", "rows": ""}, "'' is no number of training rows"),
        ({"starts": "scratch", "rows": []}, "no number of training rows was given"),
        ({"starts": "scratch", "seeds": 0}, "0 seeds"),
        ({"starts": "scratch", "most_test": 0}, "0 test rows at most"),
        ({"starts": "scratch", "most_test": -5}, "-5 test rows at most"),
    ],
)
def test_what_cannot_be_asked_is_told(table: Path, bases: Any, tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    starts = asked.pop("starts")
    named = starts if starts != "scratch" else f"scratch:{bases('bert').folder}"
    with pytest.raises(ExperimentError, match=message):
        luthier.transfer(table, named, out=tmp_path / "out", **asked)


def cells(curves: dict[str, list[float]], wide: float = 0.001) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Models whose accuracy is known, with draws close around it."""
    about = {"metric": "accuracy", "validation_rows": 20, "test_rows": 100, "seconds": 1.0}
    return {
        (name, count, 1): {**about, "value": value, "training_rows": count, "draws": [value - wide, value, value + wide] * 100}
        for name, values in curves.items()
        for count, value in zip((50, 200, 800), values, strict=True)
    }


def test_the_sentence_says_points_and_rows() -> None:
    found = compare_starts(cells({"scratch": [0.5, 0.6, 0.8], "base": [0.7, 0.8, 0.9]}), ["base", "scratch"])
    assert found["sentences"] == [
        "With 200 rows, starting from base is worth +20.0 points of accuracy [+20.0, +20.0] against scratch; as good as about 4.0 times the rows from scratch."
    ]
    better = compare_starts(cells({"scratch": [0.5, 0.6, 0.7], "base": [0.7, 0.8, 0.9]}), ["base", "scratch"])
    assert better["sentences"][0].endswith("against scratch; scratch is not as good with 800 rows, the most tried.")
    worse = compare_starts(cells({"scratch": [0.5, 0.6, 0.8], "base": [0.4, 0.5, 0.7]}), ["base", "scratch"])
    assert worse["sentences"][0].endswith("against scratch: it harms.")


def test_of_a_loss_less_is_better_and_is_said_so() -> None:
    made = cells({"scratch": [0.9, 0.8, 0.6], "base": [0.7, 0.6, 0.5]})
    found = compare_starts({key: {**cell, "metric": "loss"} for key, cell in made.items()}, ["base", "scratch"])
    assert found["sentences"] == [
        "With 200 rows, starting from base lowers loss by 0.2000 [0.2000, 0.2000] against scratch; as good as about 4.0 times the rows from scratch."
    ]


def test_no_evidence_is_called_so() -> None:
    made = cells({"scratch": [0.5, 0.6, 0.8], "base": [0.5, 0.61, 0.8]})
    for (name, _, _), cell in made.items():
        cell["draws"] = [cell["value"] + step * (1 if name == "base" else -1) for step in (-0.05, 0.0, 0.05)] * 100
    assert compare_starts(made, ["base", "scratch"])["sentences"][0].endswith("no evidence that it helps.")


def test_where_there_is_no_evidence_with_200_rows_but_with_fewer_both_are_said() -> None:
    made = cells({"scratch": [0.5, 0.6, 0.8], "base": [0.7, 0.61, 0.8]})
    for (name, _, _), cell in made.items():
        cell["draws"] = [cell["value"] + step * (1 if name == "base" else -1) for step in (-0.05, 0.0, 0.05)] * 100
    (sentence,) = compare_starts(made, ["base", "scratch"])["sentences"]
    assert sentence.endswith(": no evidence that it helps; with 50 rows it is worth +20.0 points of accuracy [+10.0, +30.0].")
