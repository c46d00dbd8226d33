"""Whether this run compiles the kernels that make its steps faster, before anything depends on them."""

from __future__ import annotations

from luthier.core.errors import ModelError
from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.data.dataset import Dataset
from luthier.experiment import Experiment
from luthier.models import compiled, shared_library
from luthier.models.base import Base
from luthier.training.devices import compiled_is_faster

CHARACTERS_A_TOKEN = 4
BYTES_A_WEIGHT = 4
WORTH = 3e14
"""Operations of a training that takes ten minutes on two cores: a quarter of it is saved, and a minute spent."""


def compile_where_it_pays(place: Run, experiment: Experiment, base: Base | None, dataset: Dataset, reporter: Reporter) -> None:
    """Compile the kernels where they are not kept yet and the run is long enough to repay it.

    Args:
        place: the run.
        experiment: before what depends on the machine is decided.
        base: whose training they would make faster.
        dataset: the rows.
        reporter: shows progress.
    """
    training = experiment.training
    if training.kernels != "auto" or base is None or not compiled_is_faster(training.dtype, base):
        return
    if compiled.are_cached() or not shared_library.can_compile() or _operations(experiment, base, dataset) < WORTH:
        return
    reporter.say("compiling kernels for this processor: about a minute, once; later runs find them")
    try:
        compiled.load()
    except ModelError as problem:
        place.event("not_compiled", problem=problem.message)
        reporter.say(f"{problem.message}; this run goes on without them")


def _operations(experiment: Experiment, base: Base, dataset: Dataset) -> float:
    """What the training takes, roughly: six operations for each weight and token."""
    rows = dataset.records["train"]
    characters = sum(len(str(value)) for record in rows for value in record.values.values())
    training = experiment.training
    epochs = training.steps * training.batch_size / max(len(rows), 1) if training.steps else training.epochs
    weights = sum(file.stat().st_size for file in base.folder.glob("*.safetensors")) / BYTES_A_WEIGHT
    return 6 * weights * characters / CHARACTERS_A_TOKEN * epochs
