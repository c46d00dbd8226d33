"""The model store, as verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core import hub
from luthier.models.catalogue import PACKAGED
from luthier.models.disk import Entry, find_entry, folder_size, list_entries, remove_entry
from luthier.models.store import home, list_bases, resolve


def models() -> list[dict[str, Any]]:
    """Every base known by name: kind, licence, language, whether it is on this machine and the bytes that it takes there."""
    return [{**base, "bytes": folder_size(Path(base["folder"])) if base["here"] else 0} for base in list_bases()]


def disk() -> list[dict[str, Any]]:
    """What Luthier keeps on the disk, with the bytes it takes: each base, what was left over, the store as a whole, and the hub's cache."""
    entries = [{**vars(entry), "folder": str(entry.folder)} for entry in list_entries(home(), PACKAGED)]
    caches = (
        ("the store", home(), "all that is listed above"),
        ("the hub's cache", hub.cache_folder(), "models and data sets named owner/name; other programs use it too"),
    )
    return entries + [
        {"name": name, "folder": str(folder), "kind": "cache", "bytes": folder_size(folder), "about": about, "removable": False}
        for name, folder, about in caches
    ]


def pull(name: str, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Fetch a base (and convert it, where that is needed) so that later runs need no connection."""
    return describe(name, say)


def remove(name: str, ask: Callable[[Entry], bool] = lambda entry: True) -> int:
    """Remove a fetched base, or what was left over of a fetch, from the store.

    Args:
        name: of the base, or of a leftover as `disk` lists it.
        ask: whether what was found is to be removed; not asked about what cannot be.

    Returns:
        How many bytes became free; 0 where the answer was no.

    Raises:
        ModelError: it is not in the store, Luthier did not write it, it is being fetched, or it cannot be removed.
    """
    return remove_entry(home(), name) if ask(find_entry(home(), name)) else 0


def describe(name: str, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """What is known about a base: its folder, kind, hash, size and configuration."""
    import json

    base = resolve(name, say)
    config = json.loads((base.folder / "config.json").read_text())
    weights = base.folder / "model.safetensors"
    return {
        "name": name,
        "kind": base.kind,
        "folder": str(base.folder),
        "sha256": base.fingerprint,
        "megabytes": round(weights.stat().st_size / 1e6, 1),
        "architecture": config.get("model_type"),
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "reads_tokens": config.get("max_position_embeddings"),
        "vocabulary": config.get("vocab_size"),
        "bundle": bool(base.bundle),
    }
