"""How often Python's collector of rubbish looks, in processes of our own."""

from __future__ import annotations

import atexit
import gc


def collect_seldom() -> None:
    """Let Python's collector look less often, and not once more at the end of the process: a third of the time that a command took to start and to end."""
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)
