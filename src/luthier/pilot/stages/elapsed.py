"""Count the seconds that a run has taken over all its commands, killed ones included."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator

from luthier.core.run import Clock, Run

FILE = "seconds.json"
EVERY = 2.0
"""Seconds between two notes: what a kill without warning takes from the sum at most."""


def earlier_seconds(place: Run) -> float:
    """Seconds that earlier commands spent on the run, up to their ends or to the last note before they were killed."""
    try:
        return float(json.loads((place.folder / FILE).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # of a version that kept no such file, or damaged
        return float(sum(event["seconds"] for event in place.events_named("interrupted")))


@contextlib.contextmanager
def count_seconds(place: Run, clock: Clock, before: float) -> Iterator[None]:
    """Keep a note of the seconds in the run's folder while the body works.

    Args:
        place: the run, owned.
        clock: seconds since the command began.
        before: seconds of the commands before this one.
    """
    over = threading.Event()

    def note() -> None:
        file = place.folder / FILE
        aside = file.with_name(f".{FILE}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a full disk is named by whoever writes what matters
            aside.write_text(json.dumps({"seconds": round(before + clock(), 2)}))
            aside.replace(file)

    def again() -> None:
        while not over.wait(EVERY):
            note()

    thread = threading.Thread(target=again, name="seconds", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        note()
