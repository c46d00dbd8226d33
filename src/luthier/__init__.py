"""Luthier: from a raw file to a language model that is trained, understood, proven better, and running."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.core.threads import bound_spinning

bound_spinning()  # before torch is loaded

if TYPE_CHECKING:
    from luthier.core.run import Run
    from luthier.experiment import Experiment
    from luthier.pilot.bench import bench
    from luthier.pilot.check import check
    from luthier.pilot.models import describe, pull
    from luthier.pilot.plan import plan
    from luthier.pilot.predict import chat, predict
    from luthier.pilot.prove import prove
    from luthier.pilot.report import report
    from luthier.pilot.run import resume, run, train
    from luthier.pilot.search import search
    from luthier.pilot.show import show
    from luthier.pilot.similar import similar
    from luthier.pilot.steer import steer

_PLACES = {
    "Experiment": "luthier.experiment",
    "Run": "luthier.core.run",
    "bench": "luthier.pilot.bench",
    "chat": "luthier.pilot.predict",
    "check": "luthier.pilot.check",
    "describe": "luthier.pilot.models",
    "plan": "luthier.pilot.plan",
    "predict": "luthier.pilot.predict",
    "prove": "luthier.pilot.prove",
    "pull": "luthier.pilot.models",
    "report": "luthier.pilot.report",
    "resume": "luthier.pilot.run",
    "run": "luthier.pilot.run",
    "search": "luthier.pilot.search",
    "show": "luthier.pilot.show",
    "similar": "luthier.pilot.similar",
    "steer": "luthier.pilot.steer",
    "train": "luthier.pilot.run",
}

__all__ = [
    "Experiment",
    "Run",
    "bench",
    "chat",
    "check",
    "describe",
    "plan",
    "predict",
    "prove",
    "pull",
    "report",
    "resume",
    "run",
    "search",
    "show",
    "similar",
    "steer",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a noun or a verb when it is first used, so that `import luthier` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
