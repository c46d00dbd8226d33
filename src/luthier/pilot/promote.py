"""Give a run a name that people and servers use, and take it back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.core.aliases import Alias, aliases_file, history_of, read_aliases, read_versions, roll_back_alias, write_alias
from luthier.core.errors import RunError
from luthier.core.run import Run
from luthier.core.run_entry import is_run
from luthier.evaluation.verdict import verdict_sentence
from luthier.models.catalogue import PACKAGED
from luthier.models.manifest import bundle_hash, hash_bundle, read_bundle
from luthier.pilot.stages.named_runs import bundle_of, run_or_bundle


def promote(run: str | os.PathLike[str], name: str, *, force: bool = False) -> Alias:
    """Give a run's bundle a name, such as production; who bore it before stays in the history, for `rollback`.

    Args:
        run: its folder, a study's (its winner), a bundle's, or another alias.
        name: of the alias.
        force: promote although the verdict is worse than a baseline, or there is none.

    Returns:
        What the name stands for now.

    Raises:
        RunError: no whole run is there, its verdict is worse, or the name is taken by something else.
        ModelError: the bundle is not whole, or not as it was written.
    """
    if Path(name).exists() or name in PACKAGED:
        what = "a base's" if name in PACKAGED else "that of a file or folder here"
        raise RunError(f"{name!r} cannot be an alias: the name is {what} already", "choose another name, such as production")
    place = run_or_bundle(run)
    bundle = bundle_of(place)
    facts, _ = read_bundle(bundle)
    verdict = Run(place).verdict if is_run(place) else None
    if not force:
        _refuse_worse(place, verdict)
    sha256, before = hash_bundle(facts), read_aliases().get(name)
    if before is not None and before.hash == sha256 and before.folder.resolve() == bundle.resolve():
        return before
    return write_alias(name, bundle, place, sha256, forced=force and (verdict is None or verdict["verdict"] == "worse"))


def rollback(name: str) -> tuple[Alias, Alias]:
    """Give a name back to the run that bore it before.

    Args:
        name: of the alias.

    Returns:
        What it stands for now, and what it stood for until now.

    Raises:
        RunError: there is no such alias, nothing bore it before, or what did is gone or changed.
    """
    history_of(name)
    held = read_versions(name)
    if len(held) > 1:
        facts, _ = read_bundle(held[-2].folder)
        if hash_bundle(facts) != held[-2].hash:
            raise RunError(
                f"the bundle in {held[-2].folder} is not the one that bore the name {name} before",
                f"`luthier promote RUN {name}` names another",
            )
    return roll_back_alias(name)


def aliases(name: str | None = None) -> list[dict[str, Any]]:
    """Every alias, what it stands for, and whether that is still there; of one alias, all that happened to it, the oldest first.

    Args:
        name: of the alias; all when not given.

    Raises:
        RunError: there is no such alias.
    """
    if name is not None:
        return [{"name": name, **event} for event in history_of(name)]
    return [
        {"name": each.name, "run": str(each.run), "bundle": str(each.folder), "sha256": each.hash, "at": each.at, "state": state_of(each)}
        for each in read_aliases().values()
    ]


def state_of(alias: Alias) -> str:
    """Whether the bundle that was given a name is still there: here, gone, or another bundle."""
    written = bundle_hash(alias.folder)
    return "gone" if written is None else "here" if written == alias.hash else "another bundle"


def describe_promotion(now: Alias, before: Alias | None) -> list[str]:
    """A promotion or rollback as lines for a person."""
    lines = [f"{now.name} is {now.run} (bundle {now.hash[:12]}…), noted in {aliases_file()}"]
    if before is not None and before.hash != now.hash:
        lines.append(f"before: {before.run} (bundle {before.hash[:12]}…)")
    verdict = Run(now.run).verdict if is_run(now.run) else None
    return [*lines, verdict_sentence(verdict)] if verdict else lines


def _refuse_worse(place: Path, verdict: dict[str, Any] | None) -> None:
    if verdict is None:
        finish = f"finish it: `luthier resume {place}`, or" if is_run(place) else "promote its run's folder, or"
        raise RunError(f"{place} has no verdict: nobody knows whether it is better than a baseline", f"{finish} insist with --force")
    if verdict["verdict"] == "worse":
        raise RunError(f"{place} is worse than a baseline: {verdict_sentence(verdict)}", "promote another run, or insist with --force")
