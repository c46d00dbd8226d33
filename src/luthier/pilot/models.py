"""The model store, as verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.models.store import resolve, stored


def models() -> list[dict[str, Any]]:
    """Every base known by name: kind, licence, language, whether it is on this machine."""
    return stored()


def pull(name: str, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Fetch a base (and convert it, where that is needed) so that later runs need no connection."""
    return describe(name, say)


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
