"""Compare runs: what differs of experiment and data, and the paired difference on the test rows that they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.core.errors import ExperimentError, LuthierError, RunError
from luthier.core.run import Run
from luthier.core.run_entry import RunEntry, read_entry
from luthier.core.study import Study
from luthier.core.types import Scores
from luthier.evaluation.verdict import format_value
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.pilot.stages.named_runs import run_folder
from luthier.pilot.stages.score_bundle import comparable_scores, score_bundle
from luthier.pilot.stages.shared_rows import Judged, SharedRows, find_shared_rows, read_rows

Say = Callable[[str], None]
WHERE = ("data.path", "data.validation", "data.test", "data.header", "environment", "model.fingerprint", "training.micro_batch_tokens")
"""Fields that say where the rows lie, on which machine, or how it cut its batches: the result does not depend on them, or their content says it better."""
LONGEST = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Difference:
    """How much better a run is than the first one, on the rows that both share.

    Args:
        run: its folder.
        against: the first run's folder.
        metric: that was taken.
        value: the improvement: positive is better, whichever way the metric goes.
        low: lower end of its 95 % interval.
        high: upper end.
        rows: shared test rows; where the metric reads answers, those with one.
        ours: the metric of the run on these rows.
        theirs: the metric of the first run on them.
        word: better, worse, or no evidence.
    """

    run: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    rows: int
    ours: float
    theirs: float
    word: str


@dataclass(frozen=True)
class Comparison:
    """What comparing runs has found.

    Args:
        runs: what is known of each, the first one first.
        fields: what differs of their experiments: path → a value for each run.
        data: sentences about rows that are not the same.
        differences: each further run against the first one.
        refused: why there are no paired differences, or not all; empty where there are.
    """

    runs: list[RunEntry]
    fields: dict[str, list[Any]]
    data: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    refused: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def compare(*runs: str | os.PathLike[str], metric: str | None = None, say: Say = lambda line: None) -> Comparison:
    """Compare finished runs with the first of them.

    Args:
        runs: two or more folders, studies (their winners) or aliases.
        metric: that is taken; the one of the first run's verdict when not given.
        say: told what is at work.

    Returns:
        What differs, and the paired differences; where these cannot be had, why not.

    Raises:
        RunError: one of them is no run, or not finished.
        ExperimentError: fewer than two runs, or no such metric.
    """
    if len(runs) < 2:
        raise ExperimentError("one run cannot be compared with itself", "name two runs or more: `luthier compare RUN OTHER`")
    places = [_require_finished(run) for run in runs]
    if len({place.folder.resolve() for place in places}) < len(places):
        raise ExperimentError("the same run is named twice", "name two runs or more: `luthier compare RUN OTHER`")
    experiments = [Experiment.load(place.folder / "experiment.yaml") for place in places]
    metric = _metric(places[0], experiments[0], metric)
    entries, fields = [read_entry(place.folder)[0] for place in places], differing_fields(experiments)
    tasks = {experiment.data.task for experiment in experiments}
    if len(tasks) > 1:
        return Comparison(
            entries, fields, refused=f"the runs are of other families ({', '.join(sorted(map(str, tasks)))}): no metric is common to them"
        )
    try:
        judged = read_rows(places)
    except LuthierError as problem:
        return Comparison(entries, fields, refused=problem.message)
    shared = find_shared_rows(judged)
    if shared.why_not:
        return Comparison(entries, fields, shared.left_out, refused=shared.why_not)
    found, refused = _differences(judged, shared, metric, say)
    return Comparison(entries, fields, shared.left_out, found, refused)


def _require_finished(run: str | os.PathLike[str]) -> Run:
    """A finished run; of a study the one that was chosen."""
    folder = run_folder(run)
    place = Study(folder).winner if (folder / "ledger.jsonl").is_file() else Run(folder)
    if place is None or place.verdict is None:
        raise RunError(f"{folder} has no verdict yet", Run(folder).how_to_finish())
    return place


def _metric(place: Run, experiment: Experiment, asked: str | None) -> str:
    """The metric that is meant."""
    from luthier.evaluation.metric_choice import resolve_metric
    from luthier.evaluation.user_metric import allow_function, is_function

    if asked is None:
        return str((place.verdict or {})["metric"])
    found = resolve_metric(asked, family_of(experiment.data.task), getattr(experiment.objective, "labels", ()))
    if is_function(found):
        allow_function(found)  # the person has named it
    return found


def _differences(judged: Sequence[Judged], shared: SharedRows, metric: str, say: Say) -> tuple[list[Difference], str]:
    """Each further run's improvement over the first, on the shared rows."""
    scores = []
    for each, records in zip(judged, shared.records, strict=True):
        say(f"{each.run.folder}: its bundle is asked about {len(records):,} shared test rows")
        scores.append(score_bundle(each.run.folder / "bundle", records, metric, say))
    found, refused = [], ""
    for each, ours in zip(judged[1:], scores[1:], strict=True):
        try:
            found.append(measure_difference(str(each.run.folder), ours, str(judged[0].run.folder), scores[0], metric))
        except ExperimentError as problem:
            refused = f"{each.run.folder}: {problem.message}; {problem.remedy}"
    return found, refused


def measure_difference(run: str, ours: Scores, against: str, theirs: Scores, metric: str) -> Difference:
    """How much better one model is than another on the same rows, with its interval.

    Args:
        run: the name of the one.
        ours: its scores.
        against: the name of the other.
        theirs: its scores of the same rows in the same order.
        metric: that is taken.

    Raises:
        ExperimentError: they cannot be compared.
    """
    from luthier.evaluation.compare import paired_interval
    from luthier.evaluation.metrics import measure, metric_of, rows_of

    metric, theirs, ours = comparable_scores(metric, theirs, ours)
    value, low, high = paired_interval(metric, ours, theirs)
    rows = len(set(rows_of(metric, ours)) & set(rows_of(metric, theirs))) if metric_of(metric).answers else ours.rows
    word = "better" if low > 0 else "worse" if high < 0 else "no evidence"
    return Difference(
        run, against, metric, value, low, high, rows, measure(ours, (metric,))[metric], measure(theirs, (metric,))[metric], word
    )


def differing_fields(experiments: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The fields that differ between experiments, by their dotted paths; None where one has no such field. Of the machine only versions and the processor.

    Args:
        experiments: two or more.
    """
    flat = [_flat(experiment.model_dump(mode="json")) for experiment in experiments]
    names = list(dict.fromkeys(name for one in flat for name in one))
    found = {name: [one.get(name) for one in flat] for name in names}
    differing = {name: values for name, values in found.items() if any(value != values[0] for value in values)}
    content = {name: values for name, values in differing.items() if not name.startswith(WHERE) or name.startswith("environment.")}
    return {name: values for name, values in content.items() if name not in WHERE}


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{path}{name}.") if isinstance(item, Mapping) else {f"{path}{name}": item}
    return found


def show_value(value: Any) -> str:
    """A field's value as a table shows it; long lists by their number."""
    if value is None:
        return "–"
    if isinstance(value, list):
        text = ", ".join(map(str, value)) or "none"
        return text if len(text) <= LONGEST else f"{len(value)}: {text[: LONGEST - 8]}…"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def difference_sentence(found: Difference) -> str:
    """A paired difference for a person: in the metric's own direction, as the verdict says it."""
    from luthier.evaluation.metrics import metric_of

    sign = 1 if metric_of(found.metric).higher else -1
    ends = sorted((sign * found.low, sign * found.high))
    amount = format_value(found.metric, sign * found.value, signed=True)
    between = ", ".join(format_value(found.metric, end, signed=True).removeprefix("+").removesuffix(" points") for end in ends)
    said = {"better": "better beyond noise", "worse": "worse beyond noise", "no evidence": "no evidence of a difference"}[found.word]
    values = f"{format_value(found.metric, found.ours)} against {format_value(found.metric, found.theirs)}"
    return f"{found.run} against {found.against}: {found.metric} {amount} [{between}] ({values}) on {found.rows:,} shared test rows: {said}"
