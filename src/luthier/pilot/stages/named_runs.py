"""The run that a person means: by its folder, its bundle's, a study's, or an alias."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.core.aliases import read_alias, read_aliases
from luthier.core.errors import RunError, nearest
from luthier.core.run import Run
from luthier.core.run_entry import is_run
from luthier.core.study import Study
from luthier.models.manifest import is_bundle


def run_folder(run: str | os.PathLike[str]) -> Path:
    """The folder of a run or study that a person named: by its path, its bundle's, or an alias.

    Raises:
        RunError: there is none.
    """
    alias = read_alias(os.fspath(run))
    folder = alias.run if alias is not None else Path(run).expanduser()
    if folder.name == "bundle" and is_run(folder.parent):
        folder = folder.parent
    if is_run(folder):
        return folder
    if alias is not None:
        raise RunError(
            f"{alias.name} stands for {folder}, where no run is any more",
            f"put it back, `luthier promote RUN {alias.name}` for another run, or `luthier rollback {alias.name}`",
        )
    if folder.exists():
        raise RunError(f"{folder} is not a run folder: it has no experiment.yaml", "give the folder that `luthier run` printed")
    beside = [entry.name for entry in folder.parent.iterdir() if not entry.name.startswith(".")] if folder.parent.is_dir() else []
    raise RunError(f"there is no run {os.fspath(run)}", f"{nearest(folder.name, [*beside, *read_aliases()])}; `luthier runs` lists them")


def bundle_of(place: Path) -> Path:
    """The bundle of a run; a bundle that lies alone is its own."""
    return place / "bundle" if is_bundle(place / "bundle") or is_run(place) else place


def run_or_bundle(run: str | os.PathLike[str]) -> Path:
    """The run, the chosen one of a study, or a bundle that lies alone."""
    alone = Path(run).expanduser()
    if is_bundle(alone) and not is_run(alone.parent):
        return alone
    folder = run_folder(run)
    if not (folder / "ledger.jsonl").is_file():
        return folder
    winner = Study(folder).winner
    if winner is None:
        raise RunError(f"{folder} has no winner yet", Run(folder).how_to_finish())
    return winner.folder
