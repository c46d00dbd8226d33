"""Where the user's cache lies: bases, and large arrays for the time of a run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's folder: `LUTHIER_HOME`, else `luthier` in the user's cache folder."""
    named = os.environ.get("LUTHIER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "luthier"
