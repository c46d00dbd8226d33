"""Luthier: from a raw file to a language model that is trained, understood, proven better, and running."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.core.threads import bound_spinning

bound_spinning()  # before torch is loaded

if TYPE_CHECKING:
    from luthier.app.server.listen import serve
    from luthier.core.errors import (
        DataError,
        DiskFailed,
        DiskFull,
        Diverged,
        DoesNotFit,
        ExperimentError,
        LuthierError,
        ModelError,
        NoGo,
        OutOfMemory,
        RunError,
        Stopped,
    )
    from luthier.core.finding import Finding
    from luthier.core.interfaces import Watcher
    from luthier.core.run import Run
    from luthier.core.study import Study
    from luthier.core.types import Step
    from luthier.experiment import Experiment
    from luthier.pilot.bench import bench
    from luthier.pilot.check import check
    from luthier.pilot.compare_runs import compare
    from luthier.pilot.export import export, parity
    from luthier.pilot.import_config import import_config
    from luthier.pilot.models import describe, pull, remove
    from luthier.pilot.plan import plan
    from luthier.pilot.predict import chat, predict
    from luthier.pilot.promote import aliases, promote, rollback
    from luthier.pilot.prove import prove
    from luthier.pilot.push import push
    from luthier.pilot.report import report
    from luthier.pilot.run import resume, run, train
    from luthier.pilot.runs import note, runs
    from luthier.pilot.search import search
    from luthier.pilot.show import show
    from luthier.pilot.similar import similar
    from luthier.pilot.steer import steer
    from luthier.pilot.transfer import transfer
    from luthier.training.prove import Disproved

    __version__: str

_PLACES = {
    "DataError": "luthier.core.errors",
    "DiskFailed": "luthier.core.errors",
    "DiskFull": "luthier.core.errors",
    "Disproved": "luthier.training.prove",
    "Diverged": "luthier.core.errors",
    "DoesNotFit": "luthier.core.errors",
    "Experiment": "luthier.experiment",
    "ExperimentError": "luthier.core.errors",
    "Finding": "luthier.core.finding",
    "LuthierError": "luthier.core.errors",
    "ModelError": "luthier.core.errors",
    "NoGo": "luthier.core.errors",
    "OutOfMemory": "luthier.core.errors",
    "Run": "luthier.core.run",
    "RunError": "luthier.core.errors",
    "Step": "luthier.core.types",
    "Stopped": "luthier.core.errors",
    "Study": "luthier.core.study",
    "Watcher": "luthier.core.interfaces",
    "bench": "luthier.pilot.bench",
    "check": "luthier.pilot.check",
    "compare": "luthier.pilot.compare_runs",
    "describe": "luthier.pilot.models",
    "import_config": "luthier.pilot.import_config",
    "export": "luthier.pilot.export",
    "parity": "luthier.pilot.export",
    "plan": "luthier.pilot.plan",
    "prove": "luthier.pilot.prove",
    "pull": "luthier.pilot.models",
    "push": "luthier.pilot.push",
    "remove": "luthier.pilot.models",
    "report": "luthier.pilot.report",
    "resume": "luthier.pilot.run",
    "run": "luthier.pilot.run",
    "search": "luthier.pilot.search",
    "serve": "luthier.app.server.listen",
    "show": "luthier.pilot.show",
    "similar": "luthier.pilot.similar",
    "steer": "luthier.pilot.steer",
    "train": "luthier.pilot.run",
    "transfer": "luthier.pilot.transfer",
    **dict.fromkeys("chat predict".split(), "luthier.pilot.predict"),
    **dict.fromkeys("aliases promote rollback".split(), "luthier.pilot.promote"),
    **dict.fromkeys("note runs".split(), "luthier.pilot.runs"),
}

__all__ = [
    "DataError",
    "DiskFailed",
    "DiskFull",
    "Disproved",
    "Diverged",
    "DoesNotFit",
    "Experiment",
    "ExperimentError",
    "Finding",
    "LuthierError",
    "ModelError",
    "NoGo",
    "OutOfMemory",
    "Run",
    "RunError",
    "Step",
    "Stopped",
    "Study",
    "Watcher",
    "__version__",
    "aliases",
    "bench",
    "chat",
    "check",
    "compare",
    "describe",
    "export",
    "import_config",
    "note",
    "parity",
    "plan",
    "predict",
    "promote",
    "prove",
    "pull",
    "push",
    "remove",
    "report",
    "resume",
    "rollback",
    "run",
    "runs",
    "search",
    "serve",
    "show",
    "similar",
    "steer",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import a noun or a verb when it is first used, so that `import luthier` costs nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("luthier")
    if name not in _PLACES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """Every noun and verb, also those that have not been imported yet."""
    helpers = {"Any", "TYPE_CHECKING", "annotations", "bound_spinning", "import_module"}
    return sorted({*globals(), *__all__} - helpers)
