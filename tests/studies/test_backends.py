"""Workers that answer, die, hang and lie, as real processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DiskFull, ExperimentError, RunError
from luthier.core.study import Study
from luthier.pilot.trials.remote import RemoteTrial
from luthier.studies.backends import Lost, Processes, backend_of
from luthier.studies.rungs import Rung, rungs_for
from luthier.studies.successive_halving import SuccessiveHalving, Trial
from tests.studies.test_successive_halving import ROWS, SPACE, Nobody

TARGET = "tests.studies.answers:answer"
LONG = 240.0
"""Seconds that no worker needs to begin, however busy the machine is."""
PATIENCE = 1
"""Seconds that one is given which gives no sign, whether it has begun by then or not."""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is printed reaches the log without it too
    made = Processes(TARGET, 2, 1, tmp_path / "workers")
    yield made
    made.close()


def test_a_worker_answers_one_question_after_the_other_and_prints_into_its_log(processes: Processes, tmp_path: Path) -> None:
    found = [processes.ask({"kind": "number", "value": value}, LONG) for value in (0.1, 1e-300, 1 / 3)]
    assert [each["score"] for each in found] == [0.1, 1e-300, 1 / 3]
    assert len({each["process"] for each in found}) <= 2
    assert "goes to the log" in (tmp_path / "workers" / "worker-0.log").read_text()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("killed", r"ended by signal 9 \(SIGKILL\)"),
        ("segfault", r"ended by signal 11 \(SIGSEGV\)"),
        ("aborts", r"ended by signal 6 \(SIGABRT\)"),
        ("exits", "ended with code 0 and no answer"),
        ("hangs", "gave no sign for 1 s"),
    ],
)
def test_a_worker_that_is_lost_is_named_and_another_takes_its_place(processes: Processes, tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(Lost, match=said):
        processes.ask({"kind": kind, "mark": str(tmp_path / "mark")}, PATIENCE if kind == "hangs" else LONG)
    assert processes.ask({"kind": "number", "value": 1.0}, LONG)["score"] == 1.0


def test_a_question_over_which_a_worker_died_is_asked_once_more(processes: Processes, tmp_path: Path) -> None:
    assert processes.ask({"kind": "killed once", "mark": str(tmp_path / "mark"), "value": 2.0}, LONG)["score"] == 2.0


def test_an_unknown_backend_is_named_with_the_nearest() -> None:
    with pytest.raises(ExperimentError, match="processes"):
        backend_of("proceses")


KINDS = {2: "raises", 5: "raises", 7: "raises", 3: "killed", 9: "segfault", 4: "hangs", 6: "nan", 8: "nan", 11: "memory", 13: "exits"}


class Asks:
    """A trial that a worker computes."""

    def __init__(self, trial: Trial, processes: Processes, mark: Path, patience: float) -> None:
        self.trial, self.processes, self.mark, self.patience = trial, processes, mark, patience

    def advance(self, share: float) -> tuple[float, np.ndarray | None]:
        kind = KINDS.get(self.trial.number, "number")
        answer = self.processes.ask(
            {"kind": kind, "value": 1.0 - self.trial.number / 100 - share / 10, "mark": str(self.mark)},
            self.patience if kind == "hangs" else LONG,
        )
        if "problem" in answer:
            raise RunError(answer["problem"])
        return answer["score"], answer["score"] + ROWS

    def drop(self) -> None:
        pass

    def halt(self) -> None:
        self.processes.close()


def race(
    folder: Path, processes: Any, workers: int, mark: Path, patience: float = PATIENCE, **more: Any
) -> tuple[SuccessiveHalving, Study]:
    folder.mkdir()
    study, began = Study(folder), time.monotonic()
    return SuccessiveHalving(study, SPACE, "prior", 1, rungs_for(16, 0.0, 10_000), lambda trial: Asks(trial, processes, mark, patience), lambda: time.monotonic() - began, Nobody(), workers=workers, **more), study  # fmt: skip


def test_a_search_survives_trials_that_fail_in_every_way_and_names_each(processes: Processes, tmp_path: Path) -> None:
    """R50, R57: raised, killed, segfault, hung, not a number, no memory, no answer."""
    made, study = race(tmp_path / "study", processes, 2, tmp_path / "mark")
    winner, _ = made.run()
    why = {entry["trial"]: entry["why"] for entry in study.entries_named("standing") if entry["why"]}
    assert set(why) == set(KINDS)
    assert winner.number not in KINDS
    for trial, said in {
        2: "no such column",
        3: "signal 9",
        9: "signal 11",
        4: "no sign",
        6: "is nan",
        11: "MemoryError",
        13: "no answer",
    }.items():
        assert said in why[trial]
    assert [entry["trial"] for entry in study.entries_named("standing") if entry["rung"] == 0] == list(
        range(16)
    )  # in their order, whoever was first


def test_what_is_proposed_depends_on_how_many_work_and_not_on_who_is_first(processes: Processes, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        made, study = race(tmp_path / name, processes, 3, tmp_path / "mark")
        made.run()
        found.append([{key: value for key, value in line.items() if key != "seconds"} for line in study.lines("ledger.jsonl")])
    assert found[0] == found[1]


def test_a_stop_ends_the_workers_at_once(processes: Processes, tmp_path: Path) -> None:
    def stop() -> None:
        if time.monotonic() - began > 1.5:
            raise KeyboardInterrupt

    threads = threading.active_count()
    made, _ = race(tmp_path / "study", processes, 2, tmp_path / "mark", patience=600, poll=stop)
    made.trials = {0: Trial(0, {}, "default"), 4: Trial(4, {}, "prior")}
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(made._advance_all([made.trials[4], made.trials[0]], Rung(0.5, 2, 1)))
    assert time.monotonic() - began < 300  # the hung one alone would have been waited for longer
    assert threading.active_count() <= threads + 4  # of the pool itself, and none for each worker that was ended


def test_a_full_disk_is_the_searchs_trouble_and_not_the_trials(tmp_path: Path) -> None:
    class Full:
        def ask(self, question: dict[str, Any], limit: float) -> dict[str, Any]:
            return {"problem": "no space left on the disk", "remedy": "free some space", "kind": "DiskFull"}

        def close(self) -> None:
            pass

    made, study = race(tmp_path / "study", None, 2, tmp_path / "mark")
    made.enter = lambda trial: RemoteTrial(tmp_path, tmp_path / str(trial.number), trial, Full(), 1.0)
    with pytest.raises(DiskFull, match="free some space"):
        made.run()
    assert not study.entries_named("standing")
