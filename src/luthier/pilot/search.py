"""The right hyperparameters at about the price of one run: a default, challengers, rungs that continue, and one final model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.errors import ExperimentError
from luthier.core.finding import Finding
from luthier.core.interfaces import Face, Silent
from luthier.core.run import Clock, Run, write_file
from luthier.core.study import Study
from luthier.data.intake import Intake, take_in
from luthier.experiment import Experiment
from luthier.pilot.asking import asked_for, filled, written
from luthier.pilot.complete import concluded, noted, opened_way
from luthier.pilot.outcome import Crowd
from luthier.pilot.outcome import findings as outcome
from luthier.pilot.planning import planned
from luthier.pilot.prove import proven
from luthier.pilot.run import begin, changed, kind_of, seconds_of
from luthier.pilot.samples import sampled
from luthier.pilot.trials import Runner, Stable
from luthier.pilot.way import Way
from luthier.studies.defaults import choose, space_for
from luthier.studies.plan import Plan
from luthier.studies.propose import SAMPLERS
from luthier.studies.race import Race, Trial
from luthier.studies.rungs import cost_of, rungs_for, trials_within
from luthier.studies.space import named, point, value_at
from luthier.training.devices import exact
from luthier.training.watchers import Signals

BUDGET = "2x"
FEWEST = 1.2
"""Runs that a budget must be worth for a search; below, the default alone is trained."""


def search(
    data: str | Path,
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
    out: str | Path | None = None,
    set: Sequence[str] = (),
    seed: int = 1,
    force: bool = False,
    face: Face | None = None,
) -> Study:
    """Search the hyperparameters, train, judge on sealed rows, report and ship.

    Args:
        data: a file of rows or a folder, or an experiment.yaml, which is the default then.
        budget: what everything may cost: in runs of the default ("2x") or in time ("10m").
        trials: so many, whatever they cost; as many as the budget pays for when not given.
        space: dimensions that join or take the place of the default ones, such as "optimizer.lr=1e-5..1e-3".
        sampler: tpe, gp, random, cmaes, qmc, or prior; it joins the prior and what lies near the best.
        points: to be tried right after the default, each "optimizer.lr=3e-4,model.dropout=0".
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: a name from `luthier models list`, a folder, a bundle, or a hub id.
        task: classification or chat; inferred when not given.
        out: the study's folder; `studies/<time>` when not given.
        set: changes to the default, each "path=value"; such a field stays as it is set.
        seed: of the order of rows, dropout, new weights, and the proposals.
        force: go on after a no-go of the small run.
        face: where progress is shown.

    Returns:
        The study; its `winner` is the run that was chosen, finished.

    Raises:
        LuthierError: what is wrong and what to do about it.
    """
    clock = Clock()
    face = face or Silent()
    runs, seconds = budget_of(budget)
    if sampler not in SAMPLERS:
        raise ExperimentError(f"there is no sampler {sampler!r}", f"choose one of {', '.join(SAMPLERS)}")
    if trials is not None and trials < 2:
        raise ExperimentError(f"a search of {trials} trials compares nothing", "give 2 or more, or use `luthier train`")
    if Path(data).suffix in (".yaml", ".yml") or (Path(data) / "experiment.yaml").is_file():
        experiment, intake, choices = *_written(data, set, face), []
    else:
        face.stage("data", str(data))
        intake = take_in(asked_for(data, target=target, input=input, task=task, set=set, say=face.say))
        experiment, choices = choose(intake, base, kind_of(base, face), seed)
        experiment = changed(experiment, choices, set)
    fixed = [item.partition("=")[0].strip() for item in set]
    _checked(experiment, trials or 2, fixed, space, points)
    study = Study(Run.create(Path(out) if out else Path("studies") / Run.fresh_name()).folder)
    with study.owned():
        study.event("searching", runs=runs, seconds=seconds, trials=trials, space=list(space), sampler=sampler, seed=seed, fixed=fixed,
                    points=list(points))  # before the experiment is there: without it, a resume would take the folder for a run  # fmt: skip
        begin(study, experiment, intake, choices, face, budget=seconds, force=force)
        completed(study, experiment, intake, face, clock)
    return study


def _written(data: str | Path, set: Sequence[str], face: Face) -> tuple[Experiment, Intake]:
    """An experiment that is written down, as the default, and its rows."""
    experiment = written(data).set(*set).model_copy(update={"environment": {}})
    face.stage("data", experiment.data.path)
    intake = take_in(experiment.data)
    return filled(experiment, intake), intake


def _checked(experiment: Experiment, trials: int, fixed: Sequence[str], space: Sequence[str], points: Sequence[str]) -> None:
    """A mistake in the space or in a point is said before anything is made."""
    dimensions, _ = space_for(experiment, trials, fixed, space, [path for text in points for path in named(text)])
    for text in points:
        point(text, dimensions)


def resumed(folder: Path, *, face: Face, force: bool = False) -> Study:
    """Go on with a search that was stopped, however it was stopped."""
    clock = Clock()
    study = Study(folder)
    with study.owned():
        if study.happened("finished"):
            face.say(f"{folder} is finished: nothing to resume")
            return study
        experiment = Experiment.load(folder / "experiment.yaml")
        if force:
            study.event("forced")
        face.stage("data", experiment.data.path)
        completed(study, experiment, take_in(experiment.data), face, clock)
    return study


def budget_of(budget: str | float) -> tuple[float | None, float | None]:
    """A budget as runs of the default, or as seconds: one of the two.

    Raises:
        ExperimentError: it is neither.
    """
    text = str(budget).strip().lower()
    if not text.endswith("x"):
        return None, seconds_of(budget)
    try:
        runs = float(text[:-1])
    except ValueError:
        runs = -1.0
    if not 1 <= runs < 1e4:
        raise ExperimentError(
            f"the budget {budget!r} is no number of runs", "write it as 2x (the final model counts as one), or as a time: 10m"
        )
    return runs, None


def completed(study: Study, experiment: Experiment, intake: Intake, face: Face, clock: Clock) -> None:
    """Take the study through every stage that it has not been through.

    Raises:
        NoGo: the small run says that the search would be wasted.
        Stopped: a signal came; the study can be resumed.
    """
    exact()
    with noted(study, clock), Signals() as signals:
        way, experiment = opened_way(study, experiment, intake, face, clock, signals)
        proven(way, experiment)
        experiment = planned(way, experiment)
        plan = _plan(way, experiment, study)
        stable = Stable(way, experiment)
        race = Race(study, plan.space, plan.sampler, plan.seed, plan.rungs, stable.enter, clock, Crowd(face, clock), plan.portfolio)
        face.stage("search", f"{plan.trials} trials, about {plan.runs:.2f} runs with the final model")
        with stable.kept():
            trial, entrant = race.run()
        assert isinstance(entrant, Runner)
        findings = [] if study.happened("chosen") else outcome(study, plan, race, trial)
        study.find(*findings)
        for finding in findings:
            face.finding(finding)
        study.event("chosen", trial=trial.number, values=trial.values)
        _closed(study, way, trial, entrant, findings)
        study.event("finished", trial=trial.number, seconds=round(way.spent, 2))
        from luthier.delivery.study import write_study

        write_study(study)


def _plan(way: Way, experiment: Experiment, study: Study) -> Plan:
    """How many trials, over what, and where they are compared: written down before the first."""
    file = study.folder / "plan.yaml"
    if file.exists():
        return Plan.load(file)
    asked = study.happened("searching")[-1]
    runs = asked["runs"]
    if runs is None:
        forecast = study.happened("planned")[-1]["forecast"]
        left = asked["seconds"] - way.spent - forecast["an_evaluation"] * 6 - 0.05 * asked["seconds"]
        runs = left / max(forecast["seconds"], 1e-9)
        if study.happened("cut_to_budget") or runs < FEWEST:
            way.face.say(f"the budget is worth {max(runs, 0):.1f} runs: too little for a search; the default is trained")
            runs = 1.0
    warmup = float(value_at(experiment, "schedule.warmup"))
    steps = experiment.total_steps(len(way.intake.records["train"]))
    trials = asked["trials"] or trials_within(runs, warmup, steps)
    fixed = [*asked["fixed"], *(["training.batch_size"] if experiment.training.steps else [])]
    space, stay = space_for(experiment, trials, fixed, asked["space"], [path for text in asked["points"] for path in named(text)])
    if not space:
        trials = 1
    tried = [point(text, space) for text in asked["points"]]
    rungs = rungs_for(trials, warmup, steps)
    made = Plan(
        trials,
        rungs,
        space,
        stay,
        asked["sampler"],
        asked["seed"],
        cost_of(rungs),
        tuple(tried[: trials - 1]),
    )
    write_file(file, made.yaml())
    for dimension in space if trials > 1 else ():
        way.face.say(f"  {dimension.said()}  ({dimension.why})")
    for path, why in stay.items() if trials > 1 else ():
        way.face.say(f"  {path} stays: {why}")
    return made


def _closed(study: Study, way: Way, trial: Trial, runner: Runner, findings: Sequence[Finding]) -> None:
    """Train the winner to its end and take it through verdict, bundle and report: it is a run like any other."""
    place = runner.way.place
    experiment = runner.experiment
    if place.verdict is None or not (place.folder / "bundle" / "luthier.json").exists():
        way.face.stage("train", f"trial {trial.number} to its end")
        if way.intake.spec.task == "chat":
            sampled(runner.way, runner.way.work(experiment), "before")
        if not place.happened("chosen"):
            place.find(*findings)
            place.event("chosen", study=study.folder.name, trial=trial.number)
        fit = runner.at_work()
        runner.face.chosen = True
        best = fit.finish()
        concluded(runner.way, experiment, fit.work, best)
    shown = [f"{path} {value_at(experiment, path)}" for path in trial.values]
    way.face.say(f"the model of trial {trial.number} ({', '.join(shown)}) is in {place.folder / 'bundle'}")
