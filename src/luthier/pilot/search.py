"""The right hyperparameters at about the price of one run: a default, challengers, rungs that continue, and one final model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import Clock, Run
from luthier.core.study import Study
from luthier.core.words import plural
from luthier.data.sources.frames import Frame
from luthier.experiment import Changes, Experiment, as_assignments
from luthier.pilot.stages.begin import begin_run
from luthier.pilot.stages.given_rows import rows_in_run
from luthier.pilot.stages.least_budget import check_budget_after_reading, check_budget_typed
from luthier.pilot.stages.metric import with_metric
from luthier.pilot.stages.options import default_experiment, parse_assignments, parse_seconds
from luthier.studies.backends import backend_of
from luthier.studies.defaults import space_for
from luthier.studies.plan import SearchRequest
from luthier.studies.propose import SAMPLERS
from luthier.studies.space import named_paths, parse_point

BUDGET = "2x"


def search(
    data: str | Path | Frame,
    *,
    budget: str | float = BUDGET,
    trials: int | None = None,
    space: Sequence[str] = (),
    sampler: str = "tpe",
    points: Sequence[str] = (),
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    out: str | Path | None = None,
    set: Changes = (),
    seed: int = 1,
    workers: int = 1,
    backend: str = "processes",
    force: bool = False,
    reporter: Reporter | None = None,
) -> Study:
    """Search the hyperparameters, train, judge on sealed rows, report and ship.

    Args:
        data: a file of rows or a folder, or an experiment.yaml, which is the default then; or rows in memory, or "-", as for `run`.
        budget: what everything may cost: in runs of the default ("2x") or in time ("10m", or a number of seconds).
        trials: so many, whatever they cost; as many as the budget pays for when not given.
        space: dimensions that join or take the place of the default ones, such as "optimizer.lr=1e-5..1e-3".
        sampler: tpe, gp, random, cmaes, qmc, or prior; it joins the prior and what lies near the best.
        points: to be tried right after the default, each "optimizer.lr=3e-4,model.dropout=0".
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: a name from `luthier models list`, a folder, a bundle, or a hub id; or auto, for the one that suits the rows, of those on this machine.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        metric: that decides the checkpoint, early stopping, the search and the verdict: "macro_f1", "f1:LABEL", "module:function" and others; what suits the rows when not given.
        out: the study's folder; `studies/<time>` when not given.
        set: changes to the default: {"optimizer.lr": 1e-4}, or "path=value", one or several; such a field stays as it is set.
        seed: of the order of rows, dropout, new weights, and the proposals.
        workers: trials that are at work at a time; the processor's threads are divided among them.
        backend: where they work: processes (on this machine) or ray (on a cluster; its machines see the folders under the same paths).
        force: go on after a no-go of the small run.
        reporter: shows progress; None shows nothing.

    Returns:
        The study; its `winner` is the run that was chosen, finished.

    Raises:
        LuthierError: what is wrong and what to do about it.
        Stopped: Ctrl-C or another signal; it carries the folder to `resume`.
    """
    clock = Clock()
    reporter = reporter or NullReporter()
    runs, seconds = budget_of(budget)
    check_budget_typed(seconds, force)
    changes = with_metric(as_assignments(set), metric)
    _check_request(sampler, workers, backend, trials)
    folder = Path(out) if out else Path("studies") / Run.fresh_name()
    with rows_in_run(folder, data) as (run_with_rows, rows):
        experiment, dataset, choices = default_experiment(
            rows, changes, reporter, target=target, input=input, base=base, task=task, seed=seed, seconds=seconds
        )
        check_budget_after_reading(seconds, force, clock())
        fixed = [*parse_assignments(changes)]
        _check_points(experiment, trials or 2, fixed, space, points)
        study = Study((run_with_rows or Run.create(folder)).folder)
        with study.name_folder_when_stopped(), study.lock():
            SearchRequest(seed, fixed, runs, seconds, trials, list(space), sampler, list(points), workers, backend).note(study)  # before the experiment is there: without it, a resume would take the folder for a run  # fmt: skip
            begin_run(study, experiment, dataset, choices, reporter, budget=seconds, force=force)
            from luthier.pilot.complete import complete

            complete(study, experiment, dataset, reporter, clock)
    return study


def _check_request(sampler: str, workers: int, backend: str, trials: int | None) -> None:
    """A mistake in how the search shall be made is said before the rows are read."""
    if sampler not in SAMPLERS:
        raise ExperimentError(f"there is no sampler {sampler!r}", f"choose one of {', '.join(SAMPLERS)}")
    if workers < 1:
        raise ExperimentError(f"{workers} workers do nothing", "give 1 or more")
    backend_of(backend)
    if trials is not None and trials < 2:
        raise ExperimentError(f"a search of {plural(trials, 'trial')} compares nothing", "give 2 or more, or use `luthier train`")


def _check_points(experiment: Experiment, trials: int, fixed: Sequence[str], space: Sequence[str], points: Sequence[str]) -> None:
    """A mistake in the space or in a point is said before anything is made."""
    dimensions, _ = space_for(experiment, trials, fixed, space, [path for text in points for path in named_paths(text)])
    for text in points:
        parse_point(text, dimensions)


def budget_of(budget: str | float) -> tuple[float | None, float | None]:
    """A budget as runs of the default, or as seconds: one of the two.

    Raises:
        ExperimentError: it is neither.
    """
    text = str(budget).strip().lower()
    if not text.endswith("x"):
        return None, parse_seconds(budget)
    try:
        runs = float(text[:-1])
    except ValueError:
        runs = -1.0
    if not 1 <= runs < 1e4:
        raise ExperimentError(
            f"the budget {budget!r} is no number of runs", "write it as 2x (the final model counts as one), or as a time: 10m"
        )
    return runs, None
