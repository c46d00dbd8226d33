"""What a list of runs says of one of them, read from its folder: never an exception, whatever lies there."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RunError
from luthier.core.run import Run, from_json_value
from luthier.core.study import Study

NOTE = "note.txt"
"""What a person wrote about a run."""
MARKS = ("experiment.yaml", "events.jsonl", "ledger.jsonl", "verdict.json")
"""A folder with one of these is a run or a study; where others are missing, a damaged one."""
WATCHED = (*MARKS, NOTE, "bundle/luthier.json", "bundle")
"""What an entry is made from: it is read again when one of these has changed, come or gone."""
DAMAGED = (RunError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, yaml.YAMLError, RecursionError)
"""What reading a damaged run can raise."""
FRESH = 60.0
"""Seconds: a run of another machine that noted its seconds within these is at work."""
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe both; the one in C reads thousands of experiments in seconds


@dataclass(frozen=True)
class RunEntry:
    """One run or study, as a list of runs shows it.

    Args:
        folder: of the run.
        kind: run or study.
        state: finished, running, stopped (it can be resumed), planned, no-go, refused (the time budget was too short for anything), or damaged.
        why: of a damaged one, what is wrong; of a no-go the reasons; of a refused one the budget that would do.
        family: what is learned, such as classification.
        data: path of the training rows.
        base: the base's name; empty where the network was made from scratch.
        created: local time it was begun, as 2026-11-29T11:25:44; empty where nobody knows.
        seconds: it took, over all its commands.
        bytes: of its bundle; 0 where there is none.
        verdict: improved, no_evidence or worse; empty where none was spoken.
        metric: that decided.
        higher_is_better: which way the metric goes.
        value: of the metric on the test rows, with its 95 % interval `low`, `high`; None where there is none.
        low: lower end.
        high: upper end.
        rows: test rows.
        difference: improvement over the strongest baseline: value, low, high and name.
        ships: trained, probe or average.
        winner: of a study the folder of the run that was chosen.
        note: what a person wrote.
        key: the experiment's content hash of the data: part → SHA-256 of its file.
    """

    folder: str
    kind: str = "run"
    state: str = "stopped"
    why: str = ""
    family: str = ""
    data: str = ""
    base: str = ""
    created: str = ""
    seconds: float | None = None
    bytes: int = 0
    verdict: str = ""
    metric: str = ""
    higher_is_better: bool = True
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    difference: dict[str, Any] | None = None
    ships: str = ""
    winner: str = ""
    note: str = ""
    key: dict[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Its fields by name."""
        return asdict(self)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run or a study, whole or damaged."""
    return any((folder / name).is_file() for name in MARKS)


def read_entry(folder: Path) -> tuple[RunEntry, tuple[str, ...]]:
    """Read what a list says of a run.

    Args:
        folder: of a run or a study.

    Returns:
        The entry, and the files (relative to the folder) that it was made from. A run that cannot be read is an entry that says why.
    """
    known: dict[str, Any] = {"folder": str(folder), "kind": "study" if (folder / "ledger.jsonl").is_file() else "run"}
    watched = WATCHED
    try:
        known |= _from_experiment(folder)
        known |= _from_events(folder)
        known |= {"note": read_note(folder), "bytes": _size(folder / "bundle")}
        known["seconds"] = seconds_spent(folder)
        place = Run(folder)
        if known["kind"] == "study":
            winner = Study(folder).winner
            if winner is not None:
                place = winner
                known |= {"winner": str(winner.folder), "bytes": _size(winner.folder / "bundle")}
                below = winner.folder.relative_to(folder).as_posix()
                watched = (*WATCHED, f"{below}/verdict.json", f"{below}/events.jsonl", f"{below}/bundle")
                if known["state"] != "finished":
                    known["state"] = _from_events(winner.folder)["state"]
        known |= _from_verdict(place)
        if known["state"] == "finished" and not known.get("verdict"):
            known |= {"state": "damaged", "why": "it is finished and verdict.json is missing"}
        if not (folder / "experiment.yaml").is_file():
            known |= {"state": "damaged", "why": "experiment.yaml is missing"}
    except DAMAGED as problem:
        known |= {"state": "damaged", "why": _reason(problem)}
    return RunEntry(**known), watched


def _reason(problem: Exception) -> str:
    """What is wrong, on one line."""
    if isinstance(problem, RunError):
        return problem.message
    if isinstance(problem, yaml.YAMLError):
        return "experiment.yaml is not YAML"
    if isinstance(problem, OSError):
        return f"{Path(str(problem.filename)).name if problem.filename else 'a file'}: {problem.strerror or problem}"
    text = str(problem).splitlines()[0] if str(problem) else ""
    return f"what it says is not what a run says ({type(problem).__name__}: {text[:80]})"


def _from_experiment(folder: Path) -> dict[str, Any]:
    file = folder / "experiment.yaml"
    if not file.is_file():
        return {}
    said = yaml.load(file.read_text(), Loader=Loader)
    data = said["data"]
    return {
        "family": str(data.get("task") or said["objective"]["kind"]),
        "data": str(data["path"]),
        "base": str(said["model"].get("base") or ""),
        "key": {str(part): str(value) for part, value in (data.get("fingerprint") or {}).items()},
    }


def _from_events(folder: Path) -> dict[str, Any]:
    """When a run was begun, and how far it has come."""
    events = Run(folder).lines("events.jsonl")
    names = {event["event"]: event for event in events}
    created = str((events[0] if events else {}).get("at") or "")
    state, why = "stopped", ""
    if "finished" in names:
        state = "finished"
    elif "no_go" in names and "forced" not in names:
        state, why = (
            "no-go",
            "; ".join(names["no_go"]["reasons"]) if isinstance(names["no_go"]["reasons"], list) else str(names["no_go"]["reasons"]),
        )
    elif "budget_too_short" in names and "forced" not in names:
        about = names["budget_too_short"]
        state, why = "refused", f"--budget {about['budget']:g}s is too short: the smallest that makes sense is {about['smallest']}"
    elif "planned_only" in names and "started" not in names:
        state = "planned"
    return {"created": created, "state": state, "why": why}


def _from_verdict(place: Run) -> dict[str, Any]:
    verdict = place.verdict
    if verdict is None:
        return {}
    test, difference = verdict["test"], verdict["difference"]
    return {
        "verdict": str(verdict["verdict"]),
        "metric": str(verdict["metric"]),
        "higher_is_better": bool(verdict["higher_is_better"]),
        "value": _finite_or_none(test["value"]),
        "low": _finite_or_none(test["low"]),
        "high": _finite_or_none(test["high"]),
        "rows": int(test["n"]),
        "difference": {"name": str(difference["name"]), **{end: _finite_or_none(difference[end]) for end in ("value", "low", "high")}},
        "ships": str(verdict.get("ships", "trained")),
    }


def _finite_or_none(value: Any) -> float | None:
    """A number that can be shown and sorted; None where it is none, such as NaN."""
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float holds
        return None


def seconds_spent(folder: Path) -> float | None:
    """Seconds that a run has taken so far, over all its commands; None where nobody knows."""
    try:
        return _finite_or_none(json.loads((folder / "seconds.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        try:
            verdict = from_json_value(json.loads((folder / "verdict.json").read_text()))
            return _finite_or_none(verdict["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def read_note(folder: Path) -> str:
    """What a person wrote about a run; empty where nobody has."""
    file = folder / NOTE
    return re.sub(r"\s+", " ", file.read_text(errors="replace")).strip() if file.is_file() else ""


def _size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


def is_running(folder: Path) -> bool:
    """Whether a process is at work on a run: it holds the folder's lock; on another machine, it noted its seconds a moment ago.

    Args:
        folder: of the run. Its lock is tried only where the process that it names is alive, so that no run that begins is disturbed.
    """
    lock = folder / ".lock"
    try:
        owner = re.match(r"process (\d{1,10}) on (\S+),", lock.read_text(errors="replace"))
    except OSError:
        return False
    if owner is None:
        return False
    if owner[2] != socket.gethostname():
        try:
            return time.time() - (folder / "seconds.json").stat().st_mtime < FRESH
        except OSError:
            return False
    try:
        os.kill(int(owner[1]), 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    try:
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
