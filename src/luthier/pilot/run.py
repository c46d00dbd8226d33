"""The whole way: from a file to a model that is trained, judged and shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter, Reporter, Watcher
from luthier.core.run import Clock, Run
from luthier.core.study import Study
from luthier.data.dataset import Dataset
from luthier.data.sources.frames import Frame
from luthier.evaluation.metric_choice import AUTO
from luthier.experiment import Changes, Experiment, as_assignments
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.pilot.stages.begin import begin_run, create_or_take_over
from luthier.pilot.stages.given_rows import rows_in_run
from luthier.pilot.stages.least_budget import check_budget_after_reading, check_budget_typed
from luthier.pilot.stages.metric import confirm_metric, with_metric
from luthier.pilot.stages.options import choose_experiment, data_spec, fill_from_rows, load_experiment, parse_assignments, parse_seconds
from luthier.pilot.stages.watching import refuse_watchers


def run(
    data: str | Path | Frame,
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    validation: str | Path | Frame | None = None,
    test: str | Path | Frame | None = None,
    budget: str | float | None = None,
    out: str | Path | None = None,
    set: Changes = (),
    seed: int = 1,
    plan_only: bool = False,
    force: bool = False,
    reporter: Reporter | None = None,
    watchers: Sequence[Watcher] = (),
) -> Run:
    """Read a file, choose a base and a starting point, try small, train, judge on sealed rows, report and ship.

    Args:
        data: a table (.csv, .jsonl and others), a folder with train, validation and test files, a folder of images or of texts; or a data frame (pandas, polars),
            an Arrow table or a list of dicts, which is written to data.jsonl in the run's folder; or "-" for standard input.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read (a list, or names with commas); inferred when not given.
        base: a name from `luthier models list`, a folder, a bundle, or a hub id; or auto, for the one that suits the rows, of those on this machine.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        metric: that decides the checkpoint, early stopping, the search and the verdict: "macro_f1", "f1:LABEL", "module:function" and others; what suits the rows when not given.
        validation: validation rows, where the split is given: a file, or rows as for `data`.
        test: test rows, where the split is given: a file, or rows as for `data`.
        budget: the most the whole run may take: "90s", "5m", "2h", or a number of seconds. Where it is enough for several runs, hyperparameters are searched; where it
            is not enough for one, the epochs are cut to fit.
        out: the run folder; `runs/<time>` when not given.
        set: changes to the experiment: {"optimizer.lr": 1e-4}, or "path=value", one or several.
        seed: of the order of rows, dropout and new weights.
        plan_only: stop after writing experiment.yaml.
        force: go on after a no-go of the small run.
        reporter: shows progress; None shows nothing.
        watchers: called after every training step; with them, nothing is searched.

    Returns:
        The run, finished (or planned); a study where hyperparameters were searched.

    Raises:
        LuthierError: what is wrong and what to do about it.
        Stopped: Ctrl-C or another signal; it carries the folder to `resume`.
    """
    clock = Clock()
    refuse_watchers(watchers)
    reporter = reporter or NullReporter()
    seconds = parse_seconds(budget)
    check_budget_typed(seconds, force)
    changes = with_metric(as_assignments(set), metric)
    folder = Path(out) if out else Path("runs") / Run.fresh_name()
    with rows_in_run(folder, data, validation, test) as (run_with_rows, rows, validation_rows, test_rows):
        reporter.stage("data", str(rows))
        dataset = load_dataset(
            data_spec(
                rows, target=target, input=input, task=task, validation=validation_rows, test=test_rows, set=changes, say=reporter.say
            )
        )
        check_budget_after_reading(seconds, force, clock())
        experiment, choices = choose_experiment(dataset, base, changes, seed, reporter, seconds)
        new_run = run_with_rows or Run.create(folder)
        with new_run.name_folder_when_stopped(), new_run.lock():
            searches = not (watchers or plan_only or experiment.data.folds)
            stay = [*parse_assignments(changes)] if searches else None
            begin_run(new_run, experiment, dataset, choices, reporter, budget=seconds, force=force, stay=stay)
            if plan_only:
                new_run.event("planned_only")
                return new_run
            from luthier.pilot.complete import complete

            return complete(new_run, experiment, dataset, reporter, clock, watchers)


def train(
    experiment: str | Path | Experiment,
    *,
    out: str | Path | None = None,
    set: Changes = (),
    metric: str | None = None,
    budget: str | float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    watchers: Sequence[Watcher] = (),
) -> Run:
    """Run an experiment as it is written, and judge, report and ship the result.

    Args:
        experiment: an experiment.yaml, a run folder, or the value itself.
        out: the run folder; `runs/<time>` when not given. A folder made by `--plan-only` may be given again.
        set: changes: {"optimizer.lr": 1e-4}, or "path=value", one or several.
        metric: that decides the checkpoint, early stopping, the search and the verdict: "macro_f1", "f1:LABEL", "module:function" and others; as written when not given.
        budget: the most the whole run may take: "90s", "5m", "2h", or a number of seconds.
        force: go on after a no-go of the small run.
        reporter: shows progress; None shows nothing.
        watchers: called after every training step.

    Raises:
        LuthierError: what is wrong and what to do about it.
    """
    clock = Clock()
    refuse_watchers(watchers)
    reporter = reporter or NullReporter()
    seconds = parse_seconds(budget)
    check_budget_typed(seconds, force)
    source = None if isinstance(experiment, Experiment) or set or metric or budget is not None else run_of(Path(experiment))
    changes = with_metric(as_assignments(set), metric)
    experiment = load_experiment(experiment).set(*changes)
    experiment = experiment.model_copy(update={"environment": _threads_again(experiment)})
    reporter.stage("data", experiment.data.path)
    dataset = load_dataset(experiment.data)
    check_budget_after_reading(seconds, force, clock())
    choices = family_of(dataset.spec.task).metric(dataset, AUTO)[:1] if experiment.training.metric == AUTO else []
    experiment = fill_from_rows(experiment, dataset, changes)
    cuts = cuts_while_training(source)
    new_run = create_or_take_over(Path(out) if out else Path("runs") / Run.fresh_name())
    with new_run.name_folder_when_stopped(), new_run.lock():
        begin_run(new_run, experiment, dataset, choices, reporter, budget=seconds, force=force)
        for event in cuts:
            new_run.event("cut_while_training", **event)
        if cuts:
            reporter.say(
                f"{source} was cut while it trained, to {cuts[-1]['total']:,} steps: this run is cut in the same way (with --set or --budget it is not)"
            )
        from luthier.pilot.complete import complete

        return complete(new_run, experiment, dataset, reporter, clock, watchers)


def run_of(path: Path) -> Run | None:
    """The run that a folder, or the experiment.yaml in it, belongs to; None where it is a file by itself."""
    folder = path if path.is_dir() else path.parent
    return Run(folder) if path.name in ("experiment.yaml", folder.name) and (folder / "events.jsonl").exists() else None


def cuts_while_training(source: Run | None) -> list[dict[str, Any]]:
    """How the time budget of a run cut its steps while it trained: whoever makes the same bits again must do the same."""
    events = source.events_named("cut_while_training") if source else []
    return [{name: value for name, value in event.items() if name not in ("event", "at")} for event in events]


def resume(
    run: str | Path, *, reporter: Reporter | None = None, force: bool = False, allow_inexact: bool = False, watchers: Sequence[Watcher] = ()
) -> Run:
    """Go on with a run that was stopped, however it was stopped; a finished one is left as it is.

    Args:
        run: its folder.
        reporter: shows progress; None shows nothing.
        force: go on after a no-go of the small run.
        allow_inexact: go on although the data, the software or the machine is another; the run is marked.
        watchers: called after every training step.

    Raises:
        LuthierError: it is in use, it is damaged, or something that decides its bits has changed.
    """
    clock = Clock()
    refuse_watchers(watchers)
    reporter = reporter or NullReporter()
    target = Run.open(Path(run))
    if target.events_named("searching"):
        target = Study(target.folder)
        if allow_inexact:
            raise ExperimentError("the trials of a study are compared row by row: they need the same rows, software and machine",
                                  f"start a new one: `luthier search {target.folder}/experiment.yaml`")  # fmt: skip
    with target.name_folder_when_stopped(), target.lock():
        if target.events_named("finished"):
            reporter.say(f"{target.folder} is finished: nothing to resume")
            return target
        experiment = Experiment.load(target.folder / "experiment.yaml")
        confirm_metric(target, experiment, allow_inexact)
        if force:
            target.event("forced")
        reporter.stage("data", experiment.data.path)
        dataset = load_dataset(experiment.data.model_copy(update={"fingerprint": {}}) if allow_inexact else experiment.data)
        other = _other_rows(experiment, dataset) if allow_inexact else []
        from luthier.pilot.complete import complete

        return complete(target, experiment, dataset, reporter, clock, watchers, other if allow_inexact else None)


def _threads_again(experiment: Experiment) -> dict[str, Any]:
    """Of what stands in an experiment about the machine, the number of threads, where all else is the same here: with it the same bytes come."""
    if not experiment.environment:
        return {}
    from luthier.training.devices import environment_differences

    return {} if environment_differences(experiment.environment) else {"threads": experiment.environment["threads"]}


def _other_rows(experiment: Experiment, dataset: Dataset) -> list[str]:
    """How the rows differ from those a run began with.

    Raises:
        ExperimentError: they have other classes, so the model does not fit.
    """
    labels = getattr(experiment.objective, "labels", ())
    if tuple(labels) != dataset.labels:
        raise ExperimentError(f"the rows have the classes {', '.join(dataset.labels)} now, and the run was begun for {', '.join(labels)}",
                              "start a new run with the new rows")  # fmt: skip
    then, now = experiment.data.fingerprint, dataset.spec.fingerprint
    return [
        f"data ({part}): was {then.get(part, 'none')[:12]}…, is {now.get(part, 'none')[:12]}…"
        for part in {**then, **now}
        if then.get(part) != now.get(part)
    ]
