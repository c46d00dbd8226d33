"""A metric of the user's own, named `module:function`; imported only where the user has allowed it.

An experiment.yaml may come from a stranger, so a function that only stands in the file is not imported: it has to be named in the command or call at hand,
or in an event that this machine has written into the run's folder.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ExperimentError, nearest
from luthier.core.types import Scores

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_ALLOWED: dict[str, str] = {}


def is_function(name: str) -> bool:
    """Whether a metric's name means a function of the user's."""
    return bool(NAME.match(name)) and not name.startswith("f1:")


def allow_function(name: str, folder: str = "") -> None:
    """Let a function be imported in this process.

    Args:
        name: `module:function`.
        folder: where its module may lie, beside the installed packages; the current one when not given.
    """
    _ALLOWED[name] = folder or str(Path.cwd())


def is_allowed(name: str) -> bool:
    """Whether a function may be imported in this process."""
    return name in _ALLOWED


def describe_function(name: str) -> dict[str, str]:
    """What an event keeps about a function that is allowed: its folder, and a hash of its file."""
    function = load_function(name)
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    content = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return {"name": name, "folder": _ALLOWED[name], "sha256": hashlib.sha256(content).hexdigest()}


def load_function(name: str) -> Callable[..., Any]:
    """The function, imported.

    Raises:
        ExperimentError: nobody has said that it may be imported, it cannot be imported, or there is none of that name.
    """
    module_name, _, attribute = name.partition(":")
    if name not in _ALLOWED:
        raise ExperimentError(f"the experiment asks to run code that is not part of it: the metric {name}",
                              f"if you trust that code, say so in the command: --metric {name}")  # fmt: skip
    folder = _ALLOWED[name]
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        module = import_module(module_name)
    except Exception as problem:
        raise ExperimentError(f"the metric {name}: {module_name} cannot be imported from {folder} or the installed packages: {type(problem).__name__}: {problem}",
                              "write it as module:function, with the module's file in the current directory") from problem  # fmt: skip
    finally:
        if added:
            sys.path.remove(folder)
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ExperimentError(f"the metric {name}: {module_name} has no function {attribute!r}", nearest(attribute, functions))
    return function


def higher_is_better(name: str) -> bool:
    """Which way the function's number goes: up, unless it says otherwise."""
    return bool(getattr(load_function(name), "higher_is_better", True))


def call_function(name: str, scores: Scores, rows: np.ndarray) -> float:
    """The function's number on some rows: of (targets, probabilities, labels) for classes, of (references, outputs) for answers.

    Raises:
        ExperimentError: it raised, or what it returned is no finite number.
    """
    function = load_function(name)
    arguments: tuple[Any, ...]
    if scores.probabilities is not None and scores.target is not None:
        arguments = (scores.target[rows], scores.probabilities[rows], list(scores.labels))
    else:
        assert scores.outputs is not None and scores.references is not None
        arguments = (list(scores.references[rows]), list(scores.outputs[rows]))
    takes = "targets, probabilities, labels" if len(arguments) == 3 else "references, outputs"
    try:
        value = float(function(*arguments))
    except Exception as problem:
        raise ExperimentError(f"the metric {name} failed on {len(rows):,} rows: {type(problem).__name__}: {problem}",
                              f"it is called as function({takes}) and has to return a number") from problem  # fmt: skip
    if not np.isfinite(value):
        raise ExperimentError(f"the metric {name} returned {value} on {len(rows):,} rows", "it has to return a finite number, also for rows of one class alone")  # fmt: skip
    return value
