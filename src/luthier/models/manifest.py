"""The manifest of a bundle: every file that decides a prediction, with its hash; written last, checked on load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.run import Run, file_hash

FACTS = "luthier.json"
"""What Luthier wrote about a bundle; the manifest stands in it."""
FORMAT = 2
"""1 had the hash of the weights alone."""
OTHER_ENDINGS = (".md", ".html", ".png", ".jpg", ".jpeg", ".svg", ".pdf", ".csv", ".tsv", ".jsonl", ".parquet", ".yaml", ".yml", ".log")
OTHER_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
"""Files that no loader reads: people may add them to a bundle, or change them."""


def write_facts(folder: Path, about: dict[str, Any]) -> None:
    """Write luthier.json, after every other file of a bundle.

    Args:
        folder: of the bundle; all its other files are there already.
        about: what is to be said of it; the format and the manifest are added.
    """
    facts = {**about, "format": FORMAT, "files": hash_files(folder)}
    facts["facts"] = hash_facts(facts)
    (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False))


def hash_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file that decides a prediction, by its name relative to the folder."""
    return {name: file_hash(folder / name) for name in deciding_files(folder)}


def deciding_files(folder: Path) -> list[str]:
    """All files but luthier.json, those that no loader reads (cards, pages, tables, licences), and hidden ones."""
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_dir() or hidden or name.name.endswith(OTHER_ENDINGS) or name.stem.upper() in OTHER_NAMES:
            continue
        if name.as_posix() != FACTS:
            files.append(name.as_posix())
    return files


def hash_facts(facts: dict[str, Any]) -> str:
    """The SHA-256 of what luthier.json says, without that hash itself; spaces and the order of keys do not count."""
    hashed = {name: value for name, value in facts.items() if name != "facts"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def hash_bundle(facts: dict[str, Any]) -> str:
    """The SHA-256 of a whole bundle: of what luthier.json says, the hash of every other file included."""
    return str(facts.get("facts") or hash_facts(facts))


def bundle_hash(folder: Path) -> str | None:
    """What luthier.json says the bundle's hash is, no file read beside it; empty where it cannot be read, None where there is none."""
    try:
        return hash_bundle(json.loads((folder / FACTS).read_text()))
    except OSError:
        return None
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ""


def missing_files(folder: Path) -> list[str]:
    """The files that luthier.json names and that are not there: none where the folder is no bundle. Names that lead out of the folder are none of its files."""
    try:
        names = json.loads((folder / FACTS).read_text())["files"]
        return [name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute() and not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, whole or not: it has luthier.json, or lies as `bundle` in a run's folder."""
    return (folder / FACTS).is_file() or (folder.name == "bundle" and folder.is_dir() and (folder.parent / "experiment.yaml").is_file())


def read_bundle(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[dict[str, Any], str]:
    """Read luthier.json and check every file of the bundle against it, once.

    Args:
        folder: of the bundle.
        say: told where the bundle is of an older format, which protects its weights only.

    Returns:
        What luthier.json says, and the SHA-256 of the weights.

    Raises:
        ModelError: a file is missing, changed, or was added; the message names it and says what to do.
    """
    if not (folder / FACTS).is_file():
        raise ModelError(f"the bundle {folder} is not whole: {FACTS} is missing", how_to_restore(folder))
    try:
        facts = json.loads((folder / FACTS).read_text())
        version = int(facts["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ModelError(f"the bundle {folder} is damaged: {FACTS} cannot be read", how_to_restore(folder)) from None
    if version > FORMAT:
        raise ModelError(f"the bundle {folder} has format {version}; this Luthier knows formats up to {FORMAT}", "update Luthier")
    if version == 1:
        return facts, _check_weights(folder, facts, say)
    _check_facts(folder, facts)
    written, present = facts["files"], deciding_files(folder)
    _refuse(folder, [name for name in written if not (folder / name).is_file()], "is not whole", "missing")
    now = {name: file_hash(folder / name) for name in written}
    _refuse(folder, [name for name in written if now[name] != written[name]], "is not as it was written", "changed")
    added = [name for name in present if name not in written]
    if added:
        raise ModelError(
            f"the bundle {folder} is not as it was written: {added[0]} was added{_others(added)}, and could change what the model says",
            f"move {added[0] if len(added) == 1 else 'them'} out of the folder",
        )
    return facts, now.get("model.safetensors", "")


def _check_facts(folder: Path, facts: dict[str, Any]) -> None:
    if not isinstance(facts.get("files"), dict) or facts.get("facts") != hash_facts(facts):
        raise ModelError(f"the bundle {folder} is not as it was written: {FACTS} was changed", how_to_restore(folder))


def _check_weights(folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> str:
    """The check of format 1: the weights."""
    needed = ["config.json", "model.safetensors"]
    _refuse(folder, [name for name in needed if not (folder / name).is_file()], "is not whole", "missing")
    actual = file_hash(folder / "model.safetensors")
    _refuse(folder, ["model.safetensors"] if actual != facts.get("sha256") else [], "is not as it was written", "changed")
    say(
        f"the bundle {folder} was written by an older Luthier (format 1): its weights were checked, its tokenizer, template and configuration were not"
    )
    return actual


def _refuse(folder: Path, names: list[str], state: str, what: str) -> None:
    if names:
        verb = "is" if what == "missing" else "was"
        raise ModelError(f"the bundle {folder} {state}: {names[0]} {verb} {what}{_others(names)}", how_to_restore(folder))


def _others(names: list[str]) -> str:
    more = len(names) - 1
    return f" (and {more} other file{'s' if more > 1 else ''})" if more else ""


def how_to_restore(folder: Path) -> str:
    """What to do about a bundle that is not whole: a copy, or its run."""
    run = Run(folder.parent)
    if not (run.folder / "experiment.yaml").is_file():
        return "restore the bundle from a copy"
    if not run.events_named("finished"):
        return run.how_to_finish("finish its run, which writes the bundle")
    return f"restore the bundle from a copy, or make the same one again: `luthier train {run.folder / 'experiment.yaml'} --out NEW`"
