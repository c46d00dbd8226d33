"""Where the user's cache lies; and arrays that are computed once and kept: in memory, and in a run's folder, so that whoever goes on with the run does not compute them again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def cache_folder() -> Path:
    """The user's folder: `LUTHIER_HOME`, else `luthier` in the user's cache folder."""
    home = os.environ.get("LUTHIER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(home) if home else cache / "luthier"


@dataclass
class Cache:
    """Named sets of arrays.

    Args:
        folder: where they are kept, one file a name; None keeps them in memory alone.
        poll: called between pieces of work that takes long; it may raise to stop.
        say: told about work that takes long, before it begins.
    """

    folder: Path | None = None
    poll: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda line: None
    held: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def get(self, name: str) -> dict[str, np.ndarray]:
        """What is kept under a name, as far as it was computed; empty where nothing is, or where its file is damaged."""
        if name not in self.held and self.folder is not None:
            from safetensors import SafetensorError
            from safetensors.numpy import load_file

            file = self.folder / f"{name}.safetensors"
            try:
                self.held[name] = load_file(file) if file.is_file() else {}
            except (SafetensorError, OSError):  # a file that a crash cut short: it is computed again
                self.held[name] = {}
        return self.held.get(name, {})

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays under a name, in place of those that are kept there."""
        self.held[name] = dict(arrays)
        if self.folder is not None:
            from safetensors.numpy import save

            from luthier.core.run import write_file

            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / f"{name}.safetensors", save(dict(arrays)))
