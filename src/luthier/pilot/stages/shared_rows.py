"""Which test rows several runs share, so that their models can be compared row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import DataError, LuthierError, RunError
from luthier.core.run import Run
from luthier.core.types import Record
from luthier.core.words import plural, several
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.evaluation.verdict import FEWEST_ROWS
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset

Key = tuple[str, str, str, int]
"""What a row is recognised by in another run: its text without case and punctuation, its text, its target, and which of such rows it is."""
SEEN = ("train", "validation")
"""Parts whose rows a model was trained on or chosen by."""


@dataclass(frozen=True)
class Judged:
    """A finished run with its rows, as its experiment splits them.

    Args:
        run: its folder.
        experiment: its own.
        dataset: its rows.
    """

    run: Run
    experiment: Experiment
    dataset: Dataset


@dataclass(frozen=True)
class SharedRows:
    """The rows on which runs are compared.

    Args:
        records: for each run its own records of the shared rows, all in the same order.
        left_out: sentences about rows that are not among them.
        why_not: why there are too few to compare anything; empty where there are enough.
    """

    records: list[list[Record]]
    left_out: list[str]
    why_not: str = ""


def read_rows(places: Sequence[Run]) -> list[Judged]:
    """The rows of runs, split as they were.

    Args:
        places: finished runs.

    Raises:
        DataError: the rows of one are gone, or are others now.
        RunError: they are split otherwise than when the run began.
    """
    datasets: dict[str, Dataset] = {}
    judged = []
    for run in places:
        experiment = Experiment.load(run.folder / "experiment.yaml")
        spec = experiment.data.model_dump_json()
        if spec not in datasets:
            datasets[spec] = _load(run, experiment.data)
        _check_split(run, datasets[spec])
        judged.append(Judged(run, experiment, datasets[spec]))
    return judged


def _load(run: Run, data: Data) -> Dataset:
    try:
        return load_dataset(data, ())
    except LuthierError as problem:
        raise DataError(
            f"the rows of {run.folder} cannot be had: {problem.message}",
            "compare on the rows that it was judged on: put them back where they were",
        ) from None


def _check_split(run: Run, dataset: Dataset) -> None:
    """The parts must be those that the run was trained and judged on."""
    split = run.json("splits.json")
    if split is None:
        return
    for part, rows in dataset.records.items():
        then = [(Path(source).name, row) for source, row in split["rows"].get(part, [])]
        if then != [(Path(record.source).name, record.row) for record in rows]:
            raise RunError(f"the rows of {run.folder} would be split otherwise today: its {part} rows are not those of splits.json",
                           "the data or Luthier has changed since: train the run again")  # fmt: skip


def find_shared_rows(judged: Sequence[Judged]) -> SharedRows:
    """The test rows that all runs share and that none of them has seen while it was trained or chosen.

    Args:
        judged: two runs or more, of one family.
    """
    keyed = [_keys(entry, entry.dataset.records["test"]) for entry in judged]
    both = set(keyed[0]).intersection(*keyed[1:])
    left_out = []
    if any(len(keys) != len(both) for keys in keyed):
        counts = " and ".join(f"{len(keys):,}" for keys in keyed)
        left_out.append(f"{several(len(both), 'test row', 'are shared')}, of {counts}")
    for index, entry in enumerate(judged):
        seen = {_identity(entry, record) for part in SEEN for record in entry.dataset.records[part]}
        others = {key for other, keys in enumerate(keyed) if other != index for key in keys if key[0] in seen}
        if others:
            left_out.append(f"{entry.run.folder} was trained or chosen on {plural(len(others), 'test row')} of another run: left out")
        both -= others
    order = [key for key in keyed[0] if key in both]
    if len(order) < FEWEST_ROWS:
        shortage = (
            "no test row is shared" if not order else f"only {several(len(order), 'test row', 'are shared')}, of {FEWEST_ROWS} at least"
        )
        why = "; ".join([shortage, *(sentence for sentence in left_out if "trained" in sentence)])
        return SharedRows([], left_out, f"{why}: a difference between scores on other rows says nothing about the models")
    return SharedRows([[keys[key] for key in order] for keys in keyed], left_out)


def _keys(judged: Judged, records: Sequence[Record]) -> dict[Key, Record]:
    """What each row is recognised by → the row; of equal ones each has its number."""
    data, family = judged.experiment.data, family_of(judged.experiment.data.task)
    count: Counter[tuple[str, str, str]] = Counter()
    by_key: dict[Key, Record] = {}
    for record in records:
        view = family.row_view(record, data)
        plain = (_identity(judged, record), "" if family.kind.images else view.text, view.target)
        by_key[*plain, count[plain]] = record
        count[plain] += 1
    return by_key


def _identity(judged: Judged, record: Record) -> str:
    """What copies of a row have in common."""
    return family_of(judged.experiment.data.task).identity(record, judged.experiment.data)
