"""The list of runs: what it says of each, whatever lies in the folder, and what the index may and may not decide."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.core import run_index
from luthier.core.run import Run
from luthier.core.run_entry import RunEntry, is_running, read_entry
from luthier.core.run_index import FILE, find_runs, list_entries

VERDICT: dict[str, Any] = {
    "task": "classification", "metric": "accuracy", "higher_is_better": True, "verdict": "improved", "ships": "trained", "seconds": 12.5,
    "test": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 100},
    "difference": {"against": "base", "name": "the base", "value": 0.1, "low": 0.05, "high": 0.15},
}  # fmt: skip
EXPERIMENT = "data:\n  path: /rows/train.csv\n  task: classification\n  fingerprint: {train: abc}\nmodel: {base: minilm-l6}\nobjective: {kind: classification}\n"


def make(folder: Path, *events: str, verdict: dict[str, Any] | None = VERDICT) -> Path:
    """The small part of a run's folder that a list reads."""
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    for event in ("created", *(events or ("started", "finished"))):
        Run(folder).event(event, **({"reasons": "the loss stayed"} if event == "no_go" else {}))
    if verdict is not None:
        (folder / "verdict.json").write_text(json.dumps(verdict))
        (folder / "seconds.json").write_text('{"seconds": 13.0}')
        (folder / "bundle").mkdir()
        (folder / "bundle" / "luthier.json").write_text("{}")
    return folder


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "one")
    (entry,) = list_entries(tmp_path / "runs")
    assert (entry.state, entry.verdict, entry.family, entry.data, entry.base) == (
        "finished",
        "improved",
        "classification",
        "/rows/train.csv",
        "minilm-l6",
    )
    assert (entry.metric, entry.value, entry.low, entry.high, entry.rows) == ("accuracy", 0.9, 0.85, 0.95, 100)
    assert (entry.seconds, entry.bytes, entry.key) == (13.0, 2, {"train": "abc"})
    assert entry.difference == {"name": "the base", "value": 0.1, "low": 0.05, "high": 0.15}


@pytest.mark.parametrize(
    "events, state", [(("started",), "stopped"), (("planned_only",), "planned"), (("no_go",), "no-go"), (("no_go", "forced"), "stopped")]
)
def test_a_run_that_is_not_finished_says_how_far_it_came(events: tuple[str, ...], state: str, tmp_path: Path) -> None:
    make(tmp_path / "one", *events, verdict=None)
    (entry,) = list_entries(tmp_path)
    assert entry.state == state
    assert entry.why == ("the loss stayed" if state == "no-go" else "")


def test_a_refused_budget_is_no_stopped_run_unless_somebody_insists(tmp_path: Path) -> None:
    run = Run(make(tmp_path / "one", "planned_only", verdict=None))
    run.event("budget_too_short", budget=5.0, smallest="40s")
    (entry,) = list_entries(tmp_path)
    assert (entry.state, entry.why) == ("refused", "--budget 5s is too short: the smallest that makes sense is 40s")
    run.event("forced")
    assert list_entries(tmp_path)[0].state == "planned"


DAMAGES: dict[str, tuple[str, bytes | None, str]] = {
    "a torn verdict": ("verdict.json", b'{"task": "cl', "verdict.json is damaged: it is not JSON"),
    "a verdict of another kind": ("verdict.json", b"[1, 2]", "what it says is not what a run says"),
    "an empty verdict": ("verdict.json", b"{}", "what it says is not what a run says"),
    "an experiment that is no YAML": ("experiment.yaml", b"a: [", "experiment.yaml is not YAML"),
    "an experiment that says nothing": ("experiment.yaml", b"3", "what it says is not what a run says"),
    "an experiment that names itself": ("experiment.yaml", b"a: &a [*a]", "what it says is not what a run says"),
    "an experiment with code": ("experiment.yaml", b"!!python/object/apply:os.system ['true']", "experiment.yaml is not YAML"),
    "bytes for an experiment": ("experiment.yaml", b"\xff\xfe\x00", "what it says is not what a run says"),
    "no experiment": ("experiment.yaml", None, "experiment.yaml is missing"),
    "no verdict": ("verdict.json", None, "verdict.json is missing"),
    "a damaged event": ("events.jsonl", b'{"event": \n{"event": "finished"}\n', "events.jsonl, line 1 is damaged"),
    "events of another kind": ("events.jsonl", b'[1]\n"x"\n', "what it says is not what a run says"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_listed_with_what_is_wrong(damage: str, tmp_path: Path) -> None:
    name, content, why = DAMAGES[damage]
    make(tmp_path / "healthy")
    place = make(tmp_path / "one")
    (place / name).unlink()
    if content is not None:
        (place / name).write_bytes(content)
    healthy, entry = list_entries(tmp_path)
    assert (healthy.state, entry.state) == ("finished", "damaged")
    assert why in entry.why and "\n" not in entry.why
    assert list_entries(tmp_path)[1] == entry  # from the index it is the same


def test_a_folder_in_the_place_of_a_file_is_damage_too(tmp_path: Path) -> None:
    place = make(tmp_path / "one")
    (place / "verdict.json").unlink()
    (place / "verdict.json").mkdir()
    assert list_entries(tmp_path)[0].state == "damaged"


def test_a_value_that_is_no_number_does_not_break_the_list(tmp_path: Path) -> None:
    make(tmp_path / "one", verdict={**VERDICT, "test": {"value": "NaN", "low": "NaN", "high": "Infinity", "n": 100}})
    (entry,) = list_entries(tmp_path)
    assert (entry.state, entry.value, entry.high) == ("finished", None, None)


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        make(tmp_path / f"run{number}")
    first = list_entries(tmp_path)
    read: list[Path] = []

    def count(folder: Path) -> tuple[RunEntry, tuple[str, ...]]:
        read.append(folder)
        return read_entry(folder)

    monkeypatch.setattr(run_index, "read_entry", count)
    assert list_entries(tmp_path) == first and read == []
    (tmp_path / "run3" / "verdict.json").write_text(json.dumps({**VERDICT, "verdict": "worse"}))
    assert list_entries(tmp_path)[3].verdict == "worse" and read == [tmp_path / "run3"]
    (tmp_path / "run2" / "note.txt").write_text("a note")
    assert list_entries(tmp_path)[2].note == "a note" and read[1:] == [tmp_path / "run2"]


def test_a_change_of_the_same_size_is_seen_by_its_time(tmp_path: Path) -> None:
    place = make(tmp_path / "one")
    list_entries(tmp_path)
    (place / "verdict.json").write_text(json.dumps({**VERDICT, "metric": "ACCURACY"}))
    assert list_entries(tmp_path)[0].metric == "ACCURACY"


def test_runs_that_come_and_go_are_followed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name)
    list_entries(tmp_path)
    shutil.rmtree(tmp_path / "one")
    make(tmp_path / "deeper" / "three")
    assert [Path(entry.folder).name for entry in list_entries(tmp_path)] == ["three", "two"]
    with sqlite3.connect(tmp_path / FILE) as index:
        assert sorted(row[0] for row in index.execute("SELECT path FROM runs")) == ["deeper/three", "two"]


def spoil_table(file: Path) -> None:
    with sqlite3.connect(file) as index:
        index.execute("DROP TABLE runs")


def spoil_entries(file: Path) -> None:
    with sqlite3.connect(file) as index:
        index.execute("UPDATE runs SET entry = '{\"folder\": 3}'")


SPOILS = {
    "removed": lambda file: file.unlink(),
    "not SQLite": lambda file: file.write_bytes(b"no database" * 100),
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: os.truncate(file, 5000),
    "without its table": spoil_table,
    "with entries of another kind": spoil_entries,
    "of another format": lambda file: sqlite3.connect(file).execute("PRAGMA user_version = 99").connection.commit(),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_an_index_that_is_gone_or_spoilt_loses_nothing(spoil: str, tmp_path: Path) -> None:
    for number in range(3):
        make(tmp_path / f"run{number}")
    first = list_entries(tmp_path)
    SPOILS[spoil](tmp_path / FILE)
    assert list_entries(tmp_path) == first
    assert list_entries(tmp_path) == first


def test_a_folder_that_cannot_be_written_to_is_listed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "one")
    (tmp_path / FILE).mkdir()  # so nobody, root neither, can make the index there
    assert [entry.state for entry in list_entries(tmp_path)] == ["finished"]


def test_a_run_given_itself_is_listed_and_nothing_is_written_into_it(tmp_path: Path) -> None:
    place = make(tmp_path / "one")
    before = sorted(file.name for file in place.iterdir())
    assert [entry.folder for entry in list_entries(place)] == [str(place)]
    assert sorted(file.name for file in place.iterdir()) == before


def test_a_study_is_one_line_with_its_winners_verdict_and_given_itself_lists_its_trials(tmp_path: Path) -> None:
    study = make(tmp_path / "study", "searching", verdict=None)
    for number in range(3):
        make(study / "trials" / f"{number:03d}")
    (study / "ledger.jsonl").write_text(json.dumps({"event": "won", "trial": 1, "end": ""}) + "\n")
    (entry,) = list_entries(tmp_path)
    assert (entry.kind, entry.verdict, entry.winner, entry.state) == ("study", "improved", str(study / "trials" / "001"), "finished")
    (study / "trials" / "001" / "verdict.json").write_text(json.dumps({**VERDICT, "verdict": "no_evidence"}))
    assert list_entries(tmp_path)[0].verdict == "no_evidence"
    assert [Path(each.folder).name for each in list_entries(study)] == ["000", "001", "002"]


def test_nothing_within_a_run_is_taken_for_another_run(tmp_path: Path) -> None:
    place = make(tmp_path / "one")
    make(place / "inner")
    make(tmp_path / ".hidden")
    make(tmp_path / "a" / "b" / "c" / "d" / "too-deep")
    assert find_runs(tmp_path) == [place]


def test_a_run_is_running_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    place = make(tmp_path / "one", "started", verdict=None)
    assert not is_running(place)
    with Run(place).lock():
        assert is_running(place)
        assert list_entries(tmp_path)[0].state == "running"
    assert not is_running(place)  # this process lives on, and holds it no more
    assert list_entries(tmp_path)[0].state == "stopped"


@pytest.mark.parametrize(
    "owner",
    [
        "process 999999999 on {here}, since",
        "process 99999999999999999999 on {here}, since",
        "",
        "nonsense",
        "process 1 on elsewhere, since",
    ],
)
def test_a_lock_that_nobody_holds_is_no_running_run(owner: str, tmp_path: Path) -> None:
    place = make(tmp_path / "one", "started", verdict=None)
    (place / ".lock").write_text(owner.format(here=socket.gethostname()))
    assert not is_running(place)


def test_a_run_of_another_machine_is_running_as_long_as_it_notes_its_seconds(tmp_path: Path) -> None:
    place = make(tmp_path / "one", "started", verdict=None)
    (place / ".lock").write_text("process 1 on elsewhere, since 2026-01-01 00:00:00")
    (place / "seconds.json").write_text('{"seconds": 5.0}')
    assert is_running(place)
    os.utime(place / "seconds.json", (0, 0))
    assert not is_running(place)


def test_an_entry_reads_the_same_from_the_folder_and_from_the_index(tmp_path: Path) -> None:
    place = make(tmp_path / "one")
    (place / "note.txt").write_text("first line\n  second   line\n")
    read, watched = read_entry(place)
    assert read.note == "first line second line" and "note.txt" in watched
    list_entries(tmp_path)
    assert list_entries(tmp_path) == [replace(read, folder=str(place))]


def damage_record(file: Path, what: str) -> None:
    """Spoil one run's record within an index that is whole otherwise."""
    changes = {
        "bytes": "UPDATE runs SET entry = CAST(x'ff7b' AS TEXT)",
        "nothing": "UPDATE runs SET entry = '{}', watched = '{}'",
        "no files": "UPDATE runs SET watched = '{}', entry = replace(entry, 'improved', 'worse')",
        "words": "UPDATE runs SET entry = replace(replace(entry, '13.0', '\"long\"'), '0.9,', '\"high\",')",
        "a number": "UPDATE runs SET entry = replace(entry, '\"2', '2, \"why\": \"2')",
        "no difference": 'UPDATE runs SET entry = replace(entry, \'{"name": "the base"\', \'[1], "x": {"name": "the base"\')',
        "endless": "UPDATE runs SET entry = replace(entry, '13.0', '1e999')",
        "deep": f"UPDATE runs SET entry = '{'[' * 200_000}'",
        "binary": "UPDATE runs SET path = x'00', watched = 7, entry = x'80'",
    }
    with contextlib.closing(sqlite3.connect(file)) as index:
        index.execute(f"{changes[what]} WHERE path = 'two'")
        index.commit()


@pytest.mark.parametrize("what", ["bytes", "nothing", "no files", "words", "a number", "no difference", "endless", "deep", "binary"])
def test_a_damaged_record_of_the_index_is_read_from_its_folder(what: str, tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    before = list_entries(tmp_path)
    damage_record(tmp_path / FILE, what)
    assert list_entries(tmp_path) == before
    assert list_entries(tmp_path) == before


def test_a_page_of_the_index_that_is_spoilt_loses_nothing(tmp_path: Path) -> None:
    for number in range(40):
        make(tmp_path / f"{number:02d}")
    before = list_entries(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[3 * 4096 : 5 * 4096] = bytes(range(256)) * 32
    (tmp_path / FILE).write_bytes(content)
    assert list_entries(tmp_path) == before
    assert list_entries(tmp_path) == before


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" + "0" * 400, "1" + "0" * 5000])
@pytest.mark.parametrize("place", ["value", "n", "low", "difference", "seconds"])
def test_a_number_that_is_none_spoils_no_list(place: str, number: str, tmp_path: Path) -> None:
    make(tmp_path / "good")
    folder = make(tmp_path / "odd")
    verdict = json.dumps(VERDICT).replace(
        {"value": "0.9,", "n": "100", "low": "0.85", "difference": "0.1,", "seconds": "12.5"}[place],
        number + "," * (place in ("value", "difference")),
    )
    (folder / "verdict.json").write_text(verdict)
    (folder / "seconds.json").write_text('{"seconds": %s}' % (number if place == "seconds" else "13.0"))
    for _ in range(2):
        good, odd = list_entries(tmp_path)
        assert (good.state, good.value) == ("finished", 0.9)
        numbers = [odd.value, odd.low, odd.high, odd.seconds, *(odd.difference or {}).values()]
        assert all(math.isfinite(one) for one in numbers if isinstance(one, float))
        json.dumps(odd.as_dict(), allow_nan=False)


def test_a_folder_seen_from_elsewhere_names_its_winner_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(tmp_path / "studies" / "one", "searching", verdict=None)
    make(study / "trials" / "001")
    (study / "ledger.jsonl").write_text(json.dumps({"event": "won", "trial": 1, "end": ""}) + "\n")
    monkeypatch.chdir(tmp_path)
    assert list_entries(Path("studies"))[0].winner == "studies/one/trials/001"
    monkeypatch.chdir(study)
    (entry,) = list_entries(Path("../../studies"))
    assert (entry.folder, entry.winner) == ("../../studies/one", "../../studies/one/trials/001")
    assert Path(entry.winner).is_dir()


def test_the_end_of_a_trial_that_was_chosen_is_listed_with_the_trials(tmp_path: Path) -> None:
    study = make(tmp_path / "study", "searching", verdict=None)
    for number in range(2):
        make(study / "trials" / f"{number:03d}", "started", verdict=None)
    make(study / "trials" / "001" / "ends" / "24")
    make(study / "trials" / "000" / "ends" / "12", "started", verdict=None)
    (study / "ledger.jsonl").write_text(json.dumps({"event": "won", "trial": 1, "end": "24"}) + "\n")
    found = {Path(each.folder).relative_to(study / "trials").as_posix(): each.verdict for each in list_entries(study)}
    assert found == {"000": "", "001": "", "001/ends/24": "improved"}
