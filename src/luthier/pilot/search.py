"""The right hyperparameters at about the price of one run: a default, challengers, rungs that continue, and one final model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from luthier.core.errors import ExperimentError
from luthier.core.finding import Finding
from luthier.core.interfaces import Face, Silent
from luthier.core.run import Clock, Run, write_file
from luthier.core.study import Study
from luthier.core.words import duration
from luthier.data.intake import Intake, take_in
from luthier.evaluation.score import score
from luthier.evaluation.tempered import tempered
from luthier.experiment import Experiment
from luthier.pilot.asking import asked_for, filled, written
from luthier.pilot.complete import concluded, noted, opened_way
from luthier.pilot.plan import available
from luthier.pilot.planning import planned
from luthier.pilot.prove import proven
from luthier.pilot.run import begin, changed, kind_of, seconds_of
from luthier.pilot.samples import sampled
from luthier.pilot.way import Way
from luthier.studies.defaults import Choice, choose, space_for
from luthier.studies.propose import SAMPLERS
from luthier.studies.race import Race, Trial
from luthier.studies.rungs import Decision, Rung, Standing, cost_of, expected_luck, gap, rungs_for, tied, trials_within
from luthier.studies.space import Dimension, Values, applied, point, value_at
from luthier.training.assemble import opened
from luthier.training.devices import exact
from luthier.training.train import Fit
from luthier.training.watchers import Signals

BUDGET = "2x"
IN_MEMORY = 0.25
"""Share of the free memory that trials at rest may hold; others wait on the disk."""
MANY = 99
"""Trials with which every dimension is searched."""
FEWEST = 1.2
"""Runs that a budget must be worth for a search; below, the default alone is trained."""


@dataclass(frozen=True)
class Plan:
    """A search before its first trial: decided once, then obeyed.

    Args:
        trials: that take part.
        rungs: where they are compared.
        space: what varies.
        stay: hyperparameters that do not, and why.
        sampler: a name in `SAMPLERS`.
        seed: of the proposals.
        runs: what it costs, in whole runs of the default.
        portfolio: points that are tried right after the default.
    """

    trials: int
    rungs: tuple[Rung, ...]
    space: tuple[Dimension, ...]
    stay: dict[str, str]
    sampler: str
    seed: int
    runs: float
    portfolio: tuple[Values, ...] = ()

    def yaml(self) -> str:
        """The plan as a file."""
        whole = {"trials": self.trials, "cost_in_runs": round(self.runs, 3), "sampler": self.sampler, "seed": self.seed,
                 "rungs": [vars(rung) for rung in self.rungs], "space": [dimension.model_dump(mode="json") for dimension in self.space], "stay": self.stay, "portfolio": [*self.portfolio]}  # fmt: skip
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read the file."""
        whole = yaml.safe_load(path.read_text())
        space = tuple(Dimension.model_validate(dimension) for dimension in whole["space"])
        rungs = tuple(Rung(**rung) for rung in whole["rungs"])
        return cls(
            whole["trials"], rungs, space, whole["stay"], whole["sampler"], whole["seed"], whole["cost_in_runs"], tuple(whole["portfolio"])
        )


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
    path, choices = Path(data), []
    if path.suffix in (".yaml", ".yml") or (path / "experiment.yaml").is_file():
        experiment = written(data).set(*set).model_copy(update={"environment": {}})
        face.stage("data", experiment.data.path)
        intake = take_in(experiment.data)
        experiment = filled(experiment, intake)
    else:
        face.stage("data", str(data))
        intake = take_in(asked_for(data, target=target, input=input, task=task, set=set, say=face.say))
        experiment, choices = choose(intake, base, kind_of(base, face), seed)
        experiment = changed(experiment, choices, set)
    fixed = [item.partition("=")[0].strip() for item in set]
    dimensions, _ = space_for(experiment, trials or MANY, fixed, space)  # a mistake in the space is said before anything is made
    for text in points:
        point(text, dimensions)
    study = Study(Run.create(Path(out) if out else Path("studies") / Run.fresh_name()).folder)
    with study.owned():
        begin(study, experiment, intake, choices, face, budget=seconds, force=force)
        study.event(
            "searching",
            runs=runs,
            seconds=seconds,
            trials=trials,
            space=list(space),
            sampler=sampler,
            seed=seed,
            fixed=fixed,
            points=list(points),
        )
        completed(study, experiment, intake, face, clock)
    return study


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
        stable = _Stable(way, experiment)
        crowd = _Crowd(face, way, plan)
        race = Race(study, plan.space, plan.sampler, plan.seed, plan.rungs, stable.enter, clock, crowd, plan.portfolio)
        face.stage("search", f"{plan.trials} trials, about {plan.runs:.2f} runs with the final model")
        trial, entrant = race.run()
        assert isinstance(entrant, _Runner)
        findings = [] if study.happened("chosen") else _findings(study, plan, race, trial, experiment)
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
    space, stay = space_for(experiment, trials, fixed, asked["space"])
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


class _Turn(Silent):
    """A face that shows the steps alone while trials take turns, and all once one of them has been chosen."""

    def __init__(self, face: Face) -> None:
        self.face, self.chosen = face, False
        self.step = face.step  # type: ignore[method-assign]

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """The validation rows were looked at."""
        if self.chosen:
            self.face.evaluation(step, measured, best)


class _Runner:
    """A trial as a run in a folder of its own."""

    def __init__(self, stable: _Stable, trial: Trial) -> None:
        self.stable, self.trial = stable, trial
        self.place = stable.way.place
        self.experiment = applied(stable.experiment, trial.values)
        self.way = stable.way_of(self.experiment, trial)
        self.face = _Turn(stable.way.face)
        self.fit: Fit | None = None

    def at_work(self) -> Fit:
        """Its training, in memory."""
        if self.fit is None:
            self.stable.make_room(self)
            self.fit = Fit(self.way.place, self.way.work(self.experiment), self.face, self.way.signals)
        return self.fit

    def advance(self, share: float) -> tuple[float, np.ndarray | None]:
        """Train on to this share of the run, and look at the validation rows."""
        fit = self.at_work()
        fit.advance(max(1, round(share * fit.work.total)))
        seen = fit.evaluator.seen
        if seen is None or fit.evaluator.evaluated != fit.done:
            seen = score(fit.work.model, fit.work.objective, fit.work.validation, poll=self.way.signals.poll)
        losses = tempered(seen)
        return float(losses.mean()), losses

    def rest(self) -> None:
        """Others have their turn; it stays in memory while there is room."""

    def away(self) -> None:
        """Keep on the disk what is needed to go on, and free the memory."""
        if self.fit is not None:
            self.fit.keep()
            self.fit = None

    def drop(self) -> None:
        """It takes no further part: its curves stay, its weights do not."""
        import shutil

        self.fit = None
        self.stable.runners.remove(self)
        shutil.rmtree(self.way.place.folder / "checkpoints", ignore_errors=True)


class _Stable:
    """Builds the trials and decides which of them may stay in memory."""

    def __init__(self, way: Way, experiment: Experiment) -> None:
        self.way, self.experiment = way, experiment
        self.runners: list[_Runner] = []
        self.study = Study(way.place.folder)
        self.room = IN_MEMORY * available()

    def enter(self, trial: Trial) -> _Runner:
        """A trial's entrant."""
        made = _Runner(self, trial)
        self.runners.append(made)
        return made

    def make_room(self, newcomer: _Runner) -> None:
        """Send the longest idle to the disk until another fits."""
        present = [runner for runner in self.runners if runner.fit is not None and runner is not newcomer]
        one = max(
            (sum(tensor.nbytes for tensor in runner.fit.work.masters.weights().values()) * 4 for runner in present if runner.fit), default=0
        )
        while present and one * (len(present) + 1) > self.room:
            present.pop(0).away()

    def way_of(self, experiment: Experiment, trial: Trial) -> Way:
        """A way for the trial's run; prepared rows are shared where its objective reads them in the same manner."""
        place = self.study.trial(trial.number)
        if not (place.folder / "experiment.yaml").exists():
            place = Run.create(place.folder)
            choices = [Choice(path, value, f"trial {trial.number}: {trial.by}") for path, value in trial.values.items()]
            begin(place, experiment, self.way.intake, choices, Silent(), budget=None, force=False)
        same = experiment.objective == self.experiment.objective
        prepared = self.way._prepared if same else {}
        return replace(self.way, place=place, objective=opened(experiment, self.way.tokenizer), _prepared=prepared)


class _Crowd:
    """Says how the race goes."""

    def __init__(self, face: Face, way: Way, plan: Plan) -> None:
        self.face, self.way, self.plan = face, way, plan
        self.best: float | None = None

    def standing(self, trial: Trial, rung: Rung, standing: Standing, best: Standing | None) -> None:
        """A trial has come to a rung."""
        leads = best is None or standing.score < best.score
        self.face.say(
            f"  {named(trial):<44} {rung.share:>6.1%}  validation loss {standing.score:.4f}{' leads' if leads else ''}  {duration(self.way.clock())}"
        )

    def failed(self, trial: Trial, why: str) -> None:
        """A trial has failed."""
        self.face.say(f"  {named(trial):<44} failed: {why}")

    def decided(self, rung: Rung, decision: Decision) -> None:
        """It is decided who goes on."""
        stopped = ", ".join(str(trial) for trial in sorted(decision.reasons))
        self.face.say(
            f"  after {rung.share:.1%} of a run trial {', '.join(str(trial) for trial in decision.kept)} of {rung.trials} goes on; stopped: {stopped or 'none'}"
        )


def named(trial: Trial) -> str:
    """A trial as a person reads it."""
    values = ", ".join(f"{path.split('.')[-1]} {value:g}" if isinstance(value, float) else f"{path.split('.')[-1]} {value}" for path, value in trial.values.items())  # fmt: skip
    return f"trial {trial.number} ({'default' if trial.number == 0 else values})"


def _findings(study: Study, plan: Plan, race: Race, winner: Trial, experiment: Experiment) -> list[Finding]:
    """What the search found out, and how much of it may be luck."""
    if plan.trials == 1:
        return []
    found = [_against_default(race, winner, plan)]
    losses = next(
        (
            one.losses
            for (_, trial), one in sorted(race.standings.items(), reverse=True)
            if trial == winner.number and one.losses is not None
        ),
        None,
    )
    if losses is not None:
        error = float(losses.std(ddof=1) / np.sqrt(len(losses)))
        luck = expected_luck(plan.trials)
        found.append(Finding(check="search.luck", claim=f"the best of {plan.trials} equal trials would seem {luck:.2f} standard errors better than it is: {luck * error:.4f} of validation loss, were their losses independent",
                             evidence={"trials": plan.trials, "standard_errors": luck, "standard_error": error},
                             remedy="the sealed test rows took no part in the choice: believe them"))  # fmt: skip
    failed = [entry for entry in study.noted("standing") if entry["why"]]
    if failed:
        found.append(Finding(check="search.failed", severity="warning", claim=f"{len(failed)} of {plan.trials} trials failed: {failed[0]['why']}",
                             evidence={"trials": [entry["trial"] for entry in failed]}, remedy="narrow the space if it happens often"))  # fmt: skip
    return found


def _against_default(race: Race, winner: Trial, plan: Plan) -> Finding:
    """The chosen values against the default, on the same rows at the last rung that both came to."""
    if winner.number == 0:
        rivals = [(number, trial) for number, trial in race.standings if trial != 0]
        number, rival = max(rivals, key=lambda key: (key[0], -race.standings[key].score))
        ours, theirs = race.standings.get((number, 0)), race.standings[number, rival]
        lead, error = gap(theirs, ours) if ours else (float("nan"), float("nan"))
        return Finding(check="search.default", severity="good", claim=f"the default was kept: none of {plan.trials - 1} challengers is better than it beyond noise",
                       evidence={"trial": 0, "nearest": rival, "lead_of_nearest": lead, "standard_error": error, "share": plan.rungs[number].share})  # fmt: skip
    number = max(at for at, trial in race.standings if trial == 0)
    ours, default = race.standings.get((number, winner.number)), race.standings[number, 0]
    said = ", ".join(f"{path} {value}" for path, value in winner.values.items())
    if ours is None or default.losses is None:
        return Finding(
            check="search.default",
            severity="good",
            claim=f"trial {winner.number} was chosen ({said}); the default failed",
            evidence={"trial": winner.number},
        )
    lead, error = gap(ours, default)
    sure = "" if not tied(ours, default, 1.96) else ", which may still be chance"
    return Finding(check="search.default", severity="good",
                   claim=f"trial {winner.number} was chosen ({said}): after {plan.rungs[number].share:.0%} of a run its validation loss is {lead:.4f} below the default's on the same rows, 95 % interval [{lead - 1.96 * error:.4f}, {lead + 1.96 * error:.4f}]{sure}",
                   evidence={"trial": winner.number, "lead": lead, "standard_error": error, "share": plan.rungs[number].share})  # fmt: skip


def _closed(study: Study, way: Way, trial: Trial, runner: _Runner, findings: Sequence[Finding]) -> None:
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
