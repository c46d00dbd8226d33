"""The list of runs, and what a person notes about one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luthier.core.aliases import read_aliases
from luthier.core.errors import ExperimentError, RunError, nearest
from luthier.core.run import AGAIN, name_disk_errors, write_file
from luthier.core.run_entry import NOTE, read_note
from luthier.core.run_index import list_entries
from luthier.families import FAMILIES
from luthier.pilot.stages.named_runs import run_folder

DEFAULT = ("runs", "studies")
"""Where `luthier run` and `luthier search` put their folders."""
ORDER = {"improved": 0, "no_evidence": 1, "worse": 2}
SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "date": lambda row: "".join(chr(0x10FFFF - ord(mark)) for mark in row["created"]),
    "verdict": lambda row: (ORDER.get(row["verdict"], 3), -((row["difference"] or {}).get("value") or 0.0)),
    "metric": lambda row: (row["value"] is None, row["metric"], (-1 if row["higher_is_better"] else 1) * (row["value"] or 0.0)),
    "cost": lambda row: (row["seconds"] is None, row["seconds"] or 0.0),
}
"""What comes first: the newest, the best verdict, the best value (metric by metric), the quickest."""
MOST_NOTE = 2000
"""Characters of a note."""


def runs(
    folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None, *, sort: str = "date", family: str | None = None
) -> list[dict[str, Any]]:
    """List the runs and studies below a folder, damaged ones and those at work included.

    Args:
        folder: one or several; `runs` and `studies` in the current folder when not given. Of a study its trials are listed.
        sort: date (the newest first), verdict (the best first), metric, or cost (the quickest first).
        family: list those of one family alone.

    Returns:
        For each run its fields (see `core.run_entry.RunEntry`) and `aliases`, the names that it bears.

    Raises:
        RunError: there is no such folder.
        ExperimentError: there is no such order or family.
    """
    if sort not in SORTS:
        raise ExperimentError(f"runs cannot be sorted by {sort!r}", nearest(sort, SORTS))
    if family is not None and family not in FAMILIES:
        raise ExperimentError(f"there is no family {family!r}", nearest(family, FAMILIES))
    found = [entry for place in _folders(folder) for entry in list_entries(place)]
    names = _names()
    rows = [
        entry.as_dict() | {"aliases": names.get(Path(entry.winner or entry.folder).resolve(), [])}
        for entry in found
        if family in (None, entry.family)
    ]
    return sorted(rows, key=SORTS[sort])


def _folders(folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> list[Path]:
    if folder is None:
        return [Path(name) for name in DEFAULT if Path(name).is_dir()]
    places = [Path(folder)] if isinstance(folder, str | os.PathLike) else [Path(each) for each in folder]
    for place in places:
        if not place.is_dir():
            beside = (
                [entry.name for entry in place.parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
                if place.parent.is_dir()
                else []
            )
            raise RunError(f"there is no folder {place}", nearest(place.name, beside))
    return places


def _names() -> dict[Path, list[str]]:
    """Run folder → the aliases that it bears."""
    found: dict[Path, list[str]] = {}
    for name, alias in read_aliases().items():
        found.setdefault(alias.run.resolve(), []).append(name)
    return found


def note(run: str | os.PathLike[str], text: str | None = None) -> str:
    """Read, write or remove the note about a run; it lies as note.txt in the run's folder and decides nothing.

    Args:
        run: its folder, or an alias.
        text: the note; None reads it, an empty one removes it.

    Returns:
        The note as it stands now.

    Raises:
        RunError: it is no run, or its folder cannot be written to.
        ExperimentError: the note is too long.
    """
    folder = run_folder(run)
    if text is None:
        return read_note(folder)
    if len(text) > MOST_NOTE:
        raise ExperimentError(
            f"the note has {len(text):,} characters, of {MOST_NOTE:,} at most", "write what is longer into a file of your own"
        )
    if text.strip():
        write_file(folder / NOTE, text.strip() + "\n", AGAIN)
    else:
        with name_disk_errors(str(folder / NOTE), AGAIN):
            (folder / NOTE).unlink(missing_ok=True)
    return read_note(folder)
