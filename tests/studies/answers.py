"""What workers are asked in the tests: to answer, and to fail in every way there is."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Do as the question says."""
    print("what is printed goes to the log")
    kind = question["kind"]
    if kind == "raises":
        raise ValueError("no such column")
    if kind == "killed" or (kind == "killed once" and not Path(question["mark"]).exists()):
        Path(question["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "aborts":
        os.abort()
    if kind == "hangs":
        time.sleep(1000)
    if kind == "exits":
        os._exit(0)
    if kind == "memory":
        raise MemoryError("not enough")
    score = float("nan") if kind == "nan" else question["value"]
    return {"score": score, "process": os.getpid()}


def waiting(question: dict[str, Any]) -> dict[str, Any]:
    """How long idle threads of this worker would spin, and whether torch is loaded already."""
    from luthier.core.threads import bound_spinning

    return {"bounded": bound_spinning(), "spins": os.environ["GOMP_SPINCOUNT"], "torch": "torch" in sys.modules}
