"""The rows on which an exported form is compared with the trainer: the sealed test rows of the run, or rows that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.run import Run
from luthier.core.types import Record
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.base import Base
from luthier.pilot.stages.prediction_rows import parse_reading_options, rows_to_predict


def rows_for_parity(bundle: Base, rows: Any) -> tuple[list[Record], str, str | None]:
    """Rows with what is learned of them.

    Args:
        bundle: resolved.
        rows: a file, or rows in memory; None: the sealed test rows of the bundle's run.

    Returns:
        The rows; where they are from, for a person; and the metric that decided the run's verdict, where there is a run.

    Raises:
        DataError: no rows are given and the bundle does not lie in its run, or the run's data have changed.
    """
    about = bundle.bundle
    assert about is not None
    family = family_of(about["task"])
    run = Run(bundle.folder.parent)
    whole = (run.folder / "experiment.yaml").is_file()
    experiment = Experiment.load(run.folder / "experiment.yaml") if whole else None
    metric = experiment.training.metric if experiment is not None else None
    if family.gives == "words":
        return [], "all words", metric
    if rows is not None:
        columns = about["input"]
        found = family.rows_to_predict(rows, columns) or rows_to_predict(rows, columns, family.converses, parse_reading_options(()), family.optional_columns(columns))  # fmt: skip
        records = _with_answers(found[0], about, str(rows) if isinstance(rows, str | Path) else "the rows given")
        return records, f"{len(records):,} rows of {rows if isinstance(rows, str | Path) else 'those given'}", metric
    if experiment is None:
        raise DataError(f"{bundle.folder} lies in no run, so there are no sealed test rows to compare on", "give rows: --rows FILE, with the columns that were trained on")  # fmt: skip
    records = load_dataset(experiment.data, ()).records["test"]
    return records, f"{len(records):,} sealed test rows of {run.folder}", metric


def _with_answers(records: list[Record], about: dict[str, Any], where: str) -> list[Record]:
    """The rows, if they have what a writer has to say: without it there is nothing to score.

    Raises:
        DataError: they have not.
    """
    family, target = family_of(about["task"]), about["target"]
    if family.generates and target is not None and records and not any(str(record.values.get(target) or "").strip() for record in records):
        raise DataError(f"{where}: no row has an answer in {target!r}, whose log-probabilities are compared", "give rows with that column")
    return records
