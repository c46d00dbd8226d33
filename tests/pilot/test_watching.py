"""What can watch a run, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ExperimentError
from luthier.pilot.stages.watching import refuse_watchers


@pytest.mark.parametrize(
    "watchers, said",
    [
        (print, "watchers is <built-in function print>, which is no list"),
        ("print", "watchers is 'print', which is no list"),
        (None, "watchers is None"),
        ([print, 5], "watcher 2 is 5, which cannot be called"),
        ([lambda: None], r"watcher 1, .*, cannot be called with a step"),
        ([lambda step, more: None], "missing a required argument"),
    ],
)
def test_what_cannot_watch_is_refused_at_once(watchers: Any, said: str, tmp_path: Path) -> None:
    for verb in (luthier.run, luthier.train, luthier.resume):
        with pytest.raises(ExperimentError, match=said):
            verb(tmp_path / "none", watchers=watchers)


def test_any_function_of_a_step_can_watch() -> None:
    refuse_watchers([print, [].append, lambda step: None, lambda step, more=1: None, lambda *all: None, max])
    refuse_watchers(())
