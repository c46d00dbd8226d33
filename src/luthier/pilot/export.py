"""Export a bundle to another format and prove that it says the same; and that proof alone, as verbs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError, ModelError
from luthier.core.extras import require_extra
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import check_writable, name_disk_errors
from luthier.delivery.exports import EXPORTERS
from luthier.delivery.exports.exporter import Exporter, facts_of
from luthier.delivery.exports.facts import PARITY, changed_files, files_in, read_facts
from luthier.models.base import Base
from luthier.models.store import resolve
from luthier.pilot.stages.parity_rows import rows_for_parity
from luthier.pilot.stages.proven_export import prove_export, refuse_export, write_export

FAILED = "-FAILED-PARITY"
"""What the name of a folder ends in whose files do not say what the trainer says."""
NOTED = "exports.jsonl"
"""Beside a bundle's files: what it was exported to."""


class PartsError(LuthierError):
    """An exported form does not say what the trainer says.

    Args:
        message: at which stage and by how much.
        remedy: what to do.
        record: of the proof, as `ParityRecord.as_data` gives it.
        folder: where the files are.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str, record: dict[str, Any], folder: Path) -> None:
        super().__init__(message, remedy)
        self.record, self.folder = record, folder


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Args:
        folder: of the files.
        format: as after `--to`.
        precision: what the weights are rounded to.
        files: name → bytes.
        usage: the command that uses it without Luthier.
        losses: what the format does not hold.
        parity: the record of the proof; None where nobody asked for it.
    """

    folder: Path
    format: str
    precision: str
    files: dict[str, int]
    usage: str
    losses: tuple[str, ...]
    parity: dict[str, Any] | None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "folder": str(self.folder), "losses": list(self.losses), "bytes": sum(self.files.values())}


def export(
    bundle: str | os.PathLike[str], *, to: str, out: str | os.PathLike[str], dtype: str = "auto", rows: Any = None, most: int | None = None,
    parity: bool = True, reporter: Reporter | None = None,
) -> Exported:  # fmt: skip
    """Export a bundle to another format, and prove stage by stage that it says the same.

    Args:
        bundle: RUN/bundle, the run's folder, or the run itself.
        to: the format: safetensors, onnx, int8, gguf, word2vec, sentence-transformers.
        out: the folder that is made.
        dtype: what weights are rounded to; auto: what the format takes if nobody says otherwise.
        rows: on which both are compared, a file or rows in memory; None: the sealed test rows of the run.
        most: rows that are compared.
        parity: whether the proof is made.
        reporter: shows progress; None shows nothing.

    Raises:
        PartsError: the exported form does not say the same; its files are in OUT-FAILED-PARITY.
        LuthierError: no whole bundle, a format that cannot hold it, or a folder that is not free.
    """
    reporter, out = reporter or NullReporter(), Path(out)
    exporter: Exporter = EXPORTERS[to]()
    base = _resolve(bundle, reporter)
    precision = _precision(exporter, dtype)
    refuse_export(exporter, base, precision)
    _refuse_place(out, base)
    for module in exporter.packages:
        require_extra(module, f"exporting to {to}", ModelError)
    losses = tuple(exporter.losses(base, precision))
    reporter.stage("export", f"{base.folder} to {to} ({precision}), into {out}")
    for loss in losses:
        reporter.say(f"{to} does not hold {loss}")
    given = rows_for_parity(base, rows) if parity else None
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with name_disk_errors(str(out)):
            usage = write_export(exporter, base, aside, precision, out, reporter.say)
        if given is not None:
            reporter.stage("parity", given[1])
        record = prove_export(exporter, base, aside, given, most, reporter.say) if given is not None else None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    kept = out if record is None or record["same"] else out.with_name(out.name + FAILED)
    shutil.rmtree(kept, ignore_errors=True) if kept is not out else None
    aside.rename(kept)
    files = {name: (kept / name).stat().st_size for name in files_in(kept)}
    if record is not None and not record["same"]:
        raise PartsError(f"the {to} export does not say what the trainer says: {record['verdict']}",
                         f"its files are in {kept}, with {PARITY}: do not ship them", record, kept)  # fmt: skip
    _note(
        base,
        {"format": to, "precision": precision, "parity": record["verdict"] if record else "not proven", "files": read_facts(kept)["files"]},
    )
    return Exported(kept, to, precision, files, usage, losses, record)


def parity(
    bundle: str | os.PathLike[str], exported: str | os.PathLike[str], *, rows: Any = None, most: int | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:  # fmt: skip
    """Compare a bundle with an exported form of it, or with a server that answers with it.

    Args:
        bundle: RUN/bundle, the run's folder, or the run itself.
        exported: the folder of an export, or the address of a server (http://…).
        rows: on which both are compared; None: the sealed test rows of the run.
        most: rows that are compared.
        reporter: shows progress; None shows nothing.

    Returns:
        The record, as `parity.json` holds it: `same`, `verdict`, `stage`, `reason`, `stages`, `metric`.

    Raises:
        LuthierError: no whole bundle, no export, or an export of another bundle.
    """
    reporter = reporter or NullReporter()
    base = _resolve(bundle, reporter)
    given = rows_for_parity(base, rows)
    place = os.fspath(exported)
    if place.startswith(("http://", "https://")):
        from luthier.delivery.parity.live import check_endpoint

        return check_endpoint(base, place, given[0], metric=given[2], most=most, rows=given[1], say=reporter.say).as_data()
    folder = Path(place)
    facts = read_facts(folder)
    if facts["bundle"]["sha256"] != facts_of(base)["sha256"]:
        raise ModelError(f"{folder} was exported from another bundle than {base.folder}", "give the run that it was exported from")
    changed = changed_files(folder, facts)
    for line in changed:
        reporter.say(f"{folder}: {line} since the export was written")
    reporter.stage("parity", given[1])
    return prove_export(EXPORTERS[facts["format"]](), base, folder, given, most, reporter.say, changed)


def _resolve(bundle: str | os.PathLike[str], reporter: Reporter) -> Base:
    """A bundle whose files were checked."""
    base = resolve(os.fspath(bundle), reporter.say)
    if base.bundle is None:
        raise ModelError(f"{base.folder} is not a Luthier bundle: it has no luthier.json", "give RUN/bundle, or the run's folder")
    return base


def _precision(exporter: Exporter, dtype: str) -> str:
    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}
    wanted = names.get(dtype.lower(), dtype)
    if wanted == "auto":
        return exporter.precisions[0]
    if wanted not in exporter.precisions:
        from luthier.core.errors import ExperimentError, nearest

        raise ExperimentError(f"{exporter.name} has no weights in {dtype!r}", nearest(wanted, exporter.precisions))
    return wanted


def _refuse_place(out: Path, base: Base) -> None:
    """Refuse a folder that is there, or that lies in the bundle."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there already", "choose another --out, or remove it")
    if base.folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ModelError(f"{out} lies in the bundle, which holds only what was shipped", "choose an --out outside of it")
    if out.exists():
        out.rmdir()
    check_writable(out)


def _note(base: Base, about: dict[str, Any]) -> None:
    """Note an export beside the bundle's files: no loader reads it, so the manifest holds."""
    with (base.folder / NOTED).open("a") as file:
        file.write(json.dumps(about, ensure_ascii=False) + "\n")
