"""An exported form of a bundle, written and proven to say the same: as `export` ships it, and as a server keeps it for its own use."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier.core.cache import cache_folder
from luthier.core.errors import DataError, ModelError, RunError
from luthier.core.extras import require_extra
from luthier.core.run import name_disk_errors, write_file
from luthier.core.types import Record
from luthier.delivery.exports import EXPORTERS
from luthier.delivery.exports.exporter import Exporter, Runtime, Say, facts_of
from luthier.delivery.exports.facts import PARITY, changed_files, read_facts, write_facts
from luthier.families import family_of
from luthier.models.base import Base
from luthier.pilot.stages.parity_rows import rows_for_parity

KEPT = "exports"
"""In the user's cache folder: exported forms that servers have made for themselves."""
ROWS = {"text": 8}
"""What a network gives → rows that a server compares before it first serves an exported form; each token of a text is a question to it."""
MOST = 64
"""Of all others."""

Given = tuple[Sequence[Record], str, str | None]
"""Rows to compare on, where they are from, and the metric that decided: as `rows_for_parity` gives them."""


@dataclass(frozen=True)
class KeptExport:
    """An exported form that lies in the user's cache folder.

    Args:
        folder: of its files.
        record: of the proof, as `ParityRecord.as_data` gives it; of one that could not be proven `verdict` says why.
    """

    folder: Path
    record: dict[str, Any]


def why_not(exporter: Exporter, base: Base, precision: str) -> str:
    """Why a format cannot hold a bundle, as the end of a sentence; empty where it can.

    Args:
        exporter: of the format.
        base: a bundle, resolved.
        precision: one of the exporter's.
    """
    task = facts_of(base)["task"]
    if not family_of(task).gives:
        return f"{task} does not say what its networks give (Family.gives)"
    return exporter.refuse(base, precision)


def refuse_export(exporter: Exporter, base: Base, precision: str) -> None:
    """Refuse a bundle that a format cannot hold, with those that can.

    Args:
        exporter: of the format.
        base: a bundle, resolved.
        precision: one of the exporter's.

    Raises:
        ModelError: it cannot.
    """
    why = why_not(exporter, base, precision)
    if why:
        able = [
            name if name != exporter.name else f"{name} (--dtype {exporter.precisions[0]})"
            for name in EXPORTERS
            if not why_not(EXPORTERS[name](), base, EXPORTERS[name]().precisions[0])
        ]
        task = facts_of(base)["task"]
        raise ModelError(
            f"{base.folder} cannot be exported to {exporter.name}: {why}",
            f"formats that hold this {task} model: {', '.join(able)}" if able else "use the bundle itself: luthier predict, luthier serve",
        )


def write_export(exporter: Exporter, base: Base, folder: Path, precision: str, place: Path, say: Say) -> str:
    """Write an exported form; the command that uses it without Luthier.

    Args:
        exporter: of the format.
        base: a bundle that is not refused.
        folder: that is made.
        precision: one of the exporter's.
        place: where the folder will lie in the end.
        say: told what takes long.
    """
    folder.mkdir(parents=True)
    exporter.write(base, folder, precision, say)
    stored = getattr(exporter, "stored_dtype", lambda base, precision: precision)(base, precision)
    usage = exporter.usage(base, place)
    write_facts(folder, base, exporter.name, stored, usage)
    return usage


def prove_export(
    exporter: Exporter, base: Base, folder: Path, given: Given, most: int | None, say: Say, changed: Sequence[str] = ()
) -> dict[str, Any]:
    """The proof of an exported form, which is written into its folder.

    Args:
        exporter: of the format.
        base: the bundle.
        folder: of the export.
        given: rows.
        most: rows that are compared at most.
        say: told what is looked at.
        changed: files that are not as they were written.
    """
    from luthier.delivery.parity.check import check_parity
    from luthier.training.devices import configure_torch

    configure_torch()
    for module in exporter.packages:
        require_extra(module, f"running a {exporter.name} export", ModelError)
    runtime: Runtime = exporter.open(folder)
    try:
        record = check_parity(base, runtime, given[0], folder=folder, metric=given[2], most=most, rows=given[1], say=say)
    finally:
        runtime.close()
    data = {**record.as_data(), "bundle": facts_of(base)["sha256"], "changed": list(changed)}
    write_file(folder / PARITY, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return data


def keep_export(base: Base, to: str, runtime: str, say: Say) -> KeptExport:
    """An exported form of a bundle in the user's cache folder: the one that lies there, or a new one; proven in the runtime that is installed.

    Args:
        base: a bundle that the format can hold.
        to: the format.
        runtime: what runs it, with its version: after a change it is proven again.
        say: told what takes long.

    Raises:
        ModelError: it cannot be written, or does not say what the trainer says.
    """
    exporter: Exporter = EXPORTERS[to]()
    precision = exporter.precisions[0]
    about = facts_of(base)
    own = about.get("facts") or about["sha256"]  # of all files: two linear models on one base have the same weights of the network
    folder = cache_folder() / KEPT / f"{own[:16]}-{to}-{precision}-{version('luthier')}"
    if not _is_whole(folder, base):
        say(f"exporting to {to} ({precision}), which is kept for the next start in {folder}")
        _make(exporter, base, folder, precision, say)
    record = _read_record(folder, runtime)
    if record is None:
        record = _prove(exporter, base, folder, say)
        write_file(folder / PARITY, json.dumps({**record, "proven_in": runtime}, indent=2, ensure_ascii=False) + "\n")
    if record.get("same") is False:
        raise ModelError(
            f"the {to} export does not say what the trainer says: {record['verdict']}",
            f"serve the bundle itself: --engine torch; {folder / PARITY} has the stages",
        )
    return KeptExport(folder, record)


def _make(exporter: Exporter, base: Base, folder: Path, precision: str, say: Say) -> None:
    """Write it aside and put it in its place; where another server was faster, its own is as good."""
    with name_disk_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:16]}"))
        try:
            write_export(exporter, base, aside / "made", precision, folder, say)
            shutil.rmtree(folder, ignore_errors=True)
            (aside / "made").rename(folder)
        except OSError:
            if not _is_whole(folder, base):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _is_whole(folder: Path, base: Base) -> bool:
    """Whether an export of this very bundle lies there, as it was written."""
    try:
        facts = read_facts(folder)
    except ModelError:
        return False
    return facts["bundle"]["sha256"] == facts_of(base)["sha256"] and not changed_files(folder, facts)


def _read_record(folder: Path, runtime: str) -> dict[str, Any] | None:
    """The record of a proof in this runtime; None where there is none."""
    try:
        record: dict[str, Any] = json.loads((folder / PARITY).read_text())
    except (OSError, ValueError):
        return None
    return record if record.get("proven_in") == runtime and record.get("same") is not None else None


def _prove(exporter: Exporter, base: Base, folder: Path, say: Say) -> dict[str, Any]:
    """The record of the proof; where there are no rows for one, why."""
    try:
        given = rows_for_parity(base, None)
    except (DataError, RunError) as problem:
        say(f"not proven to say what the trainer says: {problem.message}")
        return {"same": None, "verdict": f"not proven: {problem.message}", "stages": []}
    say(f"proving on {given[1]} that it says what the trainer says")
    record = prove_export(exporter, base, folder, given, ROWS.get(family_of(facts_of(base)["task"]).gives, MOST), lambda line: None)
    say(f"proven: {record['verdict']} ({record['rows']}; {record['runtime']})" if record["same"] else record["verdict"])
    return record
