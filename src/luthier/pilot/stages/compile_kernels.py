"""The code that makes this run's steps faster is compiled before anything depends on it."""

from __future__ import annotations

from luthier.core.errors import LuthierError
from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.experiment import Experiment
from luthier.models.base import Base
from luthier.models.kernels import shared_library
from luthier.training.devices import compiled_code, is_faster


def compile_where_it_is_faster(place: Run, experiment: Experiment, base: Base | None, reporter: Reporter) -> None:
    """Compile the code for this processor where it is not kept yet, and say so; a run for which it cannot be compiled goes on without.

    Args:
        place: the run.
        experiment: before what depends on the machine is decided.
        base: whose training it would make faster.
        reporter: shows progress.
    """
    training, code = experiment.training, compiled_code(experiment, base)
    if training.kernels != "auto" or code is None or not is_faster(code, training.dtype):
        return
    if not shared_library.can_compile() or code.is_kept():
        return
    reporter.say("compiling code for this processor: some seconds, once; later runs find it")
    try:
        code.load()
    except LuthierError as problem:
        place.event("not_compiled", problem=problem.message)
        reporter.say(f"{problem.message}; this run goes on without it")
