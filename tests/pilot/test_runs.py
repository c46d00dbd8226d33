"""The list of runs as a person asks for it, and notes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import luthier
from luthier.core.errors import ExperimentError, RunError
from tests.core.test_run_index import VERDICT, make


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs and a study, in a project's folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    better = {**VERDICT, "test": {**VERDICT["test"], "value": 0.95}, "difference": {**VERDICT["difference"], "value": 0.2}}
    make(Path("runs/good"))
    make(Path("runs/better"), verdict=better)
    make(Path("runs/worse"), verdict={**VERDICT, "verdict": "worse", "difference": {**VERDICT["difference"], "value": -0.2}})
    make(Path("runs/broken"))
    Path("runs/broken/verdict.json").write_text("{")
    make(Path("studies/one"), verdict=None)
    for number, name in enumerate(("good", "better", "worse", "broken")):
        Path("runs", name, "seconds.json").write_text(json.dumps({"seconds": 100 - number}))
        events = Path("runs", name, "events.jsonl")
        events.write_text(re.sub(r'"at": "[0-9]{4}', f'"at": "300{number}', events.read_text()))
    return tmp_path


def names(**options: str) -> list[str]:
    return [Path(row["folder"]).name for row in luthier.runs(**options)]


def test_runs_and_studies_of_the_current_folder_are_listed_the_newest_first(project: Path) -> None:
    assert names() == ["broken", "worse", "better", "good", "one"]


def test_the_list_is_sorted_as_asked_and_what_has_no_value_comes_last(project: Path) -> None:
    assert names(sort="verdict")[:3] == ["better", "good", "worse"]
    assert names(sort="metric")[:3] == ["better", "good", "worse"] and set(names(sort="metric")[3:]) == {"broken", "one"}
    assert names(sort="cost") == ["broken", "worse", "better", "good", "one"]


def test_a_metric_of_which_less_is_better_is_sorted_that_way(tmp_path: Path) -> None:
    for number, value in enumerate((0.5, 0.3, 0.4)):
        make(
            tmp_path / str(number),
            verdict={**VERDICT, "metric": "loss", "higher_is_better": False, "test": {**VERDICT["test"], "value": value}},
        )
    assert [row["value"] for row in luthier.runs(tmp_path, sort="metric")] == [0.3, 0.4, 0.5]


def test_a_family_chooses_its_runs(project: Path) -> None:
    assert len(luthier.runs(family="classification")) == 5
    assert luthier.runs(family="chat") == []


def test_what_is_misspelt_names_the_nearest(project: Path) -> None:
    with pytest.raises(ExperimentError, match="sorted by 'verdit'") as caught:
        luthier.runs(sort="verdit")
    assert "did you mean 'verdict'" in str(caught.value)
    with pytest.raises(ExperimentError, match="no family 'clasification'"):
        luthier.runs(family="clasification")
    with pytest.raises(RunError, match="there is no folder rums") as missing:
        luthier.runs("rums")
    assert "did you mean 'runs'" in str(missing.value)


def test_where_there_are_no_runs_the_list_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert luthier.runs() == [] and list(tmp_path.iterdir()) == []


def test_a_note_is_written_shown_read_and_removed(project: Path) -> None:
    assert luthier.note("runs/good", "  the one for\nthe talk ") == "the one for the talk"
    assert next(row["note"] for row in luthier.runs() if row["folder"].endswith("good")) == "the one for the talk"
    assert luthier.note("runs/good/bundle") == "the one for the talk"
    assert luthier.note("runs/good", "") == ""
    assert not Path("runs/good/note.txt").exists()


def test_a_note_to_nothing_or_of_a_book_is_refused(project: Path) -> None:
    with pytest.raises(RunError, match="there is no run runs/goood") as caught:
        luthier.note("runs/goood", "x")
    assert "did you mean 'good'" in str(caught.value)
    with pytest.raises(RunError, match="is not a run folder"):
        luthier.note("runs", "x")
    with pytest.raises(ExperimentError, match="2,001 characters"):
        luthier.note("runs/good", "x" * 2001)
