"""Trials that somebody else proposes: an Optuna study, Ray Tune, a loop of your own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ExperimentError
from luthier.core.extras import require_extra
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import Clock, Run
from luthier.core.study import Study
from luthier.experiment import Changes, as_assignments
from luthier.pilot.stages.begin import begin_run
from luthier.pilot.stages.options import default_experiment, parse_assignments
from luthier.studies.defaults import space_for
from luthier.studies.space import Dimension, Values

if TYPE_CHECKING:
    import optuna

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of a run, after which a trial says how it stands."""
MANY = 16
"""Trials that the default space is made for."""


@dataclass(frozen=True)
class Bench:
    """Rows that are read, split and proven, and a space: whoever drives it chooses the points.

    Every trial is a run in the study's folder, on the same rows in the same order; the test rows stay sealed. `luthier resume` on the folder of the one that is
    liked best takes it to its verdict and bundle.

    Args:
        folder: of the study.
        space: what may vary.
    """

    folder: Path
    space: tuple[Dimension, ...]

    def curve(self, values: Values, number: int) -> Iterator[tuple[float, float]]:
        """Train a point, pausing now and then; whoever stops asking has stopped the trial.

        Args:
            values: path → value.
            number: of the trial; a number that was used goes on where it stood.

        Yields:
            The share of the run that is done, and the validation loss (of a classifier: tempered).
        """
        from luthier.pilot.trials.local import LocalTrial
        from luthier.pilot.trials.worker import open_pool
        from luthier.studies.successive_halving import Trial

        runner = LocalTrial(open_pool(str(self.folder)), Trial(number, values, "yours"))
        try:
            with runner.context.run.lock():
                for share in SHARES:
                    yield share, (runner.advance(share) if share < 1 else runner.finish())[0]
        finally:
            runner.suspend()

    def __call__(self, trial: optuna.Trial) -> float:
        """What Optuna's `study.optimize` takes: a trial that reports, so that pruners work.

        Args:
            trial: Optuna's.

        Returns:
            The validation loss, to be minimized.
        """
        import optuna

        values: Values = {}
        for dimension in sorted(self.space, key=lambda dimension: len(dimension.when)):  # a condition comes after what it depends on
            if not dimension.applies_to(values):
                continue
            if dimension.kind == "choice":
                values[dimension.path] = trial.suggest_categorical(dimension.path, dimension.options)
            else:
                values[dimension.path] = trial.suggest_float(dimension.path, dimension.low, dimension.high, log=dimension.kind == "log")
        loss = float("nan")
        for share, loss in self.curve(values, trial.number):
            trial.report(loss, round(1000 * share))
            if share < 1 and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    def trainable(self, config: Values) -> None:
        """What Ray Tune's `Tuner` takes: reports `loss` and `share`, so that ASHA and its kin may stop it.

        Args:
            config: path → value.

        Raises:
            ExperimentError: Ray is not installed.
        """
        require_extra("ray", "a trainable of Ray Tune's", ExperimentError)
        tune: Any = import_module("ray.tune")
        number = int(tune.get_context().get_trial_id().rpartition("_")[2])
        away = {dimension.path for dimension in self.space if not dimension.applies_to(config)}
        for share, loss in self.curve({path: value for path, value in config.items() if path not in away}, number):
            tune.report({"loss": loss, "share": share})


def bench(
    data: str | Path,
    *,
    space: Sequence[str] = (),
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    out: str | Path | None = None,
    set: Changes = (),
    seed: int = 1,
    reporter: Reporter | None = None,
) -> Bench:
    """Read, check and split the rows and prove the loss, so that a search of somebody else's can begin.

    Args:
        data: a file of rows or a folder, or an experiment.yaml, which is the default then.
        space: dimensions that join or take the place of the default ones, such as "optimizer.lr=1e-5..1e-3".
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: a name from `luthier models list`, a folder, a bundle, or a hub id.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        out: the study's folder; `studies/<time>` when not given.
        set: changes to the default: {"optimizer.lr": 1e-4}, or "path=value", one or several; such a field stays as it is set.
        seed: of the order of rows, dropout and new weights.
        reporter: shows progress; None shows nothing.

    Raises:
        LuthierError: what is wrong and what to do about it.
    """
    clock = Clock()
    reporter = reporter or NullReporter()
    changes = as_assignments(set)
    experiment, dataset, choices = default_experiment(data, changes, reporter, target=target, input=input, base=base, task=task, seed=seed)
    dimensions, _ = space_for(experiment, MANY, [*parse_assignments(changes)], space)
    study = Study(Run.create(Path(out) if out else Path("studies") / Run.fresh_name()).folder)
    with study.name_folder_when_stopped(), study.lock():
        begin_run(study, experiment, dataset, choices, reporter, budget=None, force=True)
        from luthier.pilot.complete import open_context
        from luthier.pilot.stages.prove import prove_loss
        from luthier.training.devices import configure_torch, restore_threads
        from luthier.training.watchers import Signals

        configure_torch()
        with Signals() as signals, restore_threads():
            context, experiment = open_context(study, experiment, dataset, reporter, clock, signals)
            prove_loss(context, experiment)
    return Bench(study.folder.resolve(), dimensions)
