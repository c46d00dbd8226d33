"""What is written about an export beside its files: of which bundle it is, in which format, and the hash of each file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.run import file_hash
from luthier.delivery.exports.exporter import facts_of
from luthier.families import family_of
from luthier.models.base import Base

FACTS = "export.json"
PARITY = "parity.json"
"""The record of the proof."""
BESIDE = (FACTS, PARITY, "README.md")
"""Files that no runtime reads."""


def write_facts(folder: Path, bundle: Base, format: str, precision: str, usage: str) -> dict[str, Any]:
    """Write export.json, after every other file.

    Args:
        folder: of the export.
        bundle: that was exported.
        format: as after `--to`.
        precision: as after `--dtype`.
        usage: the command that uses it without Luthier.
    """
    about = facts_of(bundle)
    family = family_of(about["task"])
    facts = {
        "format": format,
        "precision": precision,
        "task": about["task"],
        "gives": family.gives,
        "images": family.kind.images,
        "talks": family.converses,
        "input": about["input"],
        "objective": about["objective"],
        "bundle": {"sha256": about["sha256"], "experiment": about["experiment"], "ships": about.get("ships", "trained")},
        "usage": usage,
        "files": {name: file_hash(folder / name) for name in files_in(folder)},
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts


def files_in(folder: Path) -> list[str]:
    """The files of an export that a runtime reads, by their names relative to the folder."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if name not in BESIDE and not name.startswith(".")]


def read_facts(folder: Path) -> dict[str, Any]:
    """What export.json says.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
        if not {"format", "gives", "files", "bundle"} <= set(facts):
            raise KeyError("without these nothing can be opened")
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no export: it holds no {FACTS}", "make one: `luthier export RUN --to safetensors --out FOLDER`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{folder / FACTS} cannot be read", "export again") from None
    return facts


def changed_files(folder: Path, facts: dict[str, Any]) -> list[str]:
    """Files of an export that are not as they were written, each with what became of it.

    Args:
        folder: of the export.
        facts: its export.json.
    """
    there, written = set(files_in(folder)), facts["files"]
    changes = [f"{name} is missing" for name in written if name not in there]
    changes += [f"{name} was changed" for name in written if name in there and file_hash(folder / name) != written[name]]
    return changes + [f"{name} was added" for name in sorted(there) if name not in written]
