"""Find the family of a table: every family is asked, and the one that knows most about it takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from luthier.core.errors import DataError
from luthier.data.dataset import QUICK, Dataset
from luthier.data.dataset import load_dataset as load_with
from luthier.data.infer import refuse_columns
from luthier.data.row_reader import Columns
from luthier.data.rows import Rows
from luthier.data.sources.images import ENDINGS as IMAGES
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.families import FAMILIES, family_of
from luthier.families.family import Family


def recognise(rows: Rows, path: str, asked: Data) -> tuple[Family, Columns]:
    """The family that reads a table, and its columns.

    Args:
        rows: of the training file.
        path: of it, for messages.
        asked: what the person named; a task that is named is obeyed or refused.

    Raises:
        DataError: a column that is not there, or rows that nobody recognises, or not the family that was named.
        ExperimentError: there is no family of that name.
    """
    refuse_columns(rows, path, [*asked.input, *([asked.target] if asked.target else [])])
    twice = next((name for name in asked.input if asked.input.count(name) > 1), None)
    if twice:
        raise DataError(f"the column {twice!r} is named twice in --input", "name each column once")
    if asked.task is not None:
        family = family_of(asked.task)
        columns = match(family, rows, path, asked)
        if columns is None:
            raise DataError(f"{path}: the columns {', '.join(rows.columns)} hold nothing for {asked.task}", "name them with --input and --target, or leave --task out")  # fmt: skip
        return family, columns
    matching: list[tuple[Family, Columns]] = []
    problem: DataError | None = None
    for family in sorted((family_of(name) for name in FAMILIES), key=lambda family: -family.specificity):
        try:
            columns = match(family, rows, path, asked)
        except DataError as reason:
            problem = problem or reason  # of the family that knows most about such rows
            continue
        if columns is not None:
            matching.append((family, columns))
    if not matching:
        raise problem or DataError(f"{path}: nothing in it is recognised", "name what it is for: --task")
    family, columns = matching[0]
    others = [other.name for other, _ in matching[1:] if other.Spec is not None and other.kind.reads == family.kind.reads]
    more = f"; {' and '.join(others)} could read them too: --task {others[0]}" if others else ""
    return family, replace(columns, reason=columns.reason + more)


def match(family: Family, rows: Rows, path: str, asked: Data) -> Columns | None:
    """The columns that a family would read of a table; None where it does not recognise it.

    Args:
        family: that is asked.
        rows: of the training file.
        path: of it, for messages.
        asked: what the person named.

    Raises:
        DataError: it would read what it learns; or it reads texts, and would read the names of images, or what the reader noted of them.
    """
    if family.kind.images or not set(KEPT) <= set(rows.columns):
        columns = family.match(rows, path, asked)
        if columns is not None and columns.target in columns.input and family.kind.learns in ("class", "classes", "number"):
            raise DataError(
                f"{path}: {columns.target!r} is to be read and to be learned: the answer would stand in the question",
                f"leave it out of --input, or learn another column ({', '.join(rows.columns)})",
            )
        return columns
    images = [name for name in rows.columns if str(rows.values[0].get(name) or "").lower().endswith(IMAGES)]
    columns = family.match(replace(rows, columns=[name for name in rows.columns if name not in KEPT]), path, asked)
    if columns is not None and set(columns.input) <= {*images, *KEPT}:
        kinds = {name: family_of(name).kind for name in FAMILIES if family_of(name).kind.images}
        same = [name for name in kinds if kinds[name].learns == family.kind.learns != "nothing"]
        readers = [f"--task {name}" for name in same or kinds]
        raise DataError(f"{path}: {columns.input[0]!r} {'names images' if columns.input[0] in images else 'is what was noted of images'}, and {family.name} reads texts",
                        f"use {' or '.join(readers)}, or name a column of texts with --input")  # fmt: skip
    return columns


def load_dataset(spec: Data, checks: Sequence[str] = QUICK) -> Dataset:
    """Read, check and split, by whichever family recognises the rows; see `data.dataset.load_dataset`."""
    if spec.task and spec.format is None:
        spec = spec.model_copy(update={"format": family_of(spec.task).file_format(Path(spec.path))})
    return load_with(spec, recognise, checks)
