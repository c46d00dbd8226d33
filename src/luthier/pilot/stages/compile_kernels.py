"""The code that makes this run's steps faster is compiled before anything depends on it."""

from __future__ import annotations

from luthier.core.errors import LuthierError, ModelError
from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.experiment import Experiment
from luthier.models import compiled, shared_library
from luthier.models.base import Base
from luthier.models.shared_library import OwnKernels
from luthier.training.devices import compiled_is_faster, own_is_faster, own_kernels


def compile_where_it_is_faster(place: Run, experiment: Experiment, base: Base | None, reporter: Reporter) -> None:
    """Compile the code for this processor where it is not kept yet, and say so; a run for which it cannot be compiled goes on without.

    Args:
        place: the run.
        experiment: before what depends on the machine is decided.
        base: whose training it would make faster.
        reporter: shows progress.
    """
    own = own_kernels(experiment, base)
    if experiment.training.kernels != "auto" or not _wanted(experiment.training.dtype, own, base):
        return
    if not shared_library.can_compile() or (own or compiled).are_kept():
        return
    reporter.say("compiling code for this processor: some seconds, once; later runs find it")
    try:
        if own is None:
            compiled.load()
        elif not own.can_be_had():
            raise ModelError("the code for this processor could not be compiled", "install another C++ compiler (g++)")
    except LuthierError as problem:
        place.event("not_compiled", problem=problem.message)
        reporter.say(f"{problem.message}; this run goes on without it")


def _wanted(dtype: str, own: OwnKernels | None, base: Base | None) -> bool:
    """Whether compiled code would be the faster one: the objective's own, else that for bases."""
    if own is not None:
        return own_is_faster(dtype, own)
    return base is not None and compiled_is_faster(dtype, base)
