"""Change a search while it runs: narrow what it tries next, stop a trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.errors import ExperimentError, nearest
from luthier.core.study import Study
from luthier.experiment import Experiment
from luthier.studies.plan import SearchPlan
from luthier.studies.space import parse_dimension


def steer(study: str | Path, *, space: Sequence[str] = (), stop: Sequence[int] = ()) -> list[str]:
    """Ask a search, from beside it, to go on otherwise; it hears before the next trial or rung, and its ledger keeps what it heard.

    Args:
        study: its folder.
        space: dimensions of its space, narrower, such as "optimizer.lr=5e-5..2e-4"; trials that are there already stay.
        stop: trials that are to take no further part; the default stays, for the others are judged against it.

    Returns:
        What was asked, for a person.

    Raises:
        LuthierError: there is no such study, dimension or trial, or nothing is left to decide.
    """
    target = Study.open(Path(study))
    if target.entries_named("won"):
        raise ExperimentError(
            f"{target.folder} has chosen already", f"search again around what it found: `luthier search {target.folder}/experiment.yaml`"
        )
    plan, experiment = SearchPlan.load(target.folder / "plan.yaml"), Experiment.load(target.folder / "experiment.yaml")
    dimensions = {dimension.path: dimension for dimension in plan.space}
    requests, messages = [], []
    for text in space:
        dimension = parse_dimension(text, experiment)
        wide = dimensions.get(dimension.path)
        if wide is None:
            raise ExperimentError(f"{dimension.path} does not vary in this search", nearest(dimension.path, [*dimensions]))
        inside = {*dimension.options} <= {*wide.options} if wide.kind == "choice" else dimension.kind != "choice" and wide.low <= dimension.low < dimension.high <= wide.high  # fmt: skip
        if not inside:
            raise ExperimentError(
                f"{dimension.as_text()} is not within {wide.as_text()}", "a search at work can be narrowed; start another one to widen it"
            )
        narrow = wide.model_copy(update={"low": dimension.low, "high": dimension.high, "options": dimension.options, "centre": dimension.centre, "spread": min(wide.spread, dimension.spread)})  # fmt: skip
        requests.append({"narrow": narrow.model_dump(mode="json")})
        messages.append(f"from the next trial on, {narrow.as_text()}")
    trials = [entry["trial"] for entry in target.entries_named("proposed")]
    for trial in stop:
        if trial == 0:
            raise ExperimentError("trial 0 is the default: the others are judged against it, so it stays", "stop the others")
        if trial not in trials:
            raise ExperimentError(f"there is no trial {trial} yet", f"there are {', '.join(map(str, trials)) or 'none'}")
        requests.append({"stop": trial})
        messages.append(f"trial {trial} stops where it is compared next")
    if not requests:
        raise ExperimentError("nothing was asked", "give --space, or --stop with a trial's number")
    target.append("requests.jsonl", *requests)
    return messages
