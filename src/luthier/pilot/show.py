"""One row as the model will see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.data.intake import take_in
from luthier.pilot.asking import asked_for
from luthier.studies.defaults import choose


@dataclass(frozen=True)
class Shown:
    """A row, token by token.

    Args:
        file: where it stands.
        line: from 1.
        part: train, validation or test.
        pieces: each token's text.
        tokens: each token's number.
        learned: whether it is one that the model has to say.
        target: the class, where there are classes.
        cut: tokens that are lost because the row is too long.
    """

    file: str
    line: int
    part: str
    pieces: list[str]
    tokens: list[int]
    learned: list[bool]
    target: str
    cut: int


def show(
    data: str | Path,
    row: int | None = None,
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    set: Sequence[str] = (),
) -> Shown:
    """Render one row as the model will see it, token by token, with what is learned.

    Args:
        data: a file of rows, or a folder.
        row: the line it begins on; the first training row when not given.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: the base whose tokenizer and template count; the task's default when not given.
        task: classification or chat; inferred when not given.
        set: changes to the experiment, each "path=value".

    Raises:
        DataError: there is no such row, or it was set aside (and why).
    """
    from luthier.models.pretrained import load_tokenizer
    from luthier.models.store import resolve
    from luthier.training.assemble import opened

    intake = take_in(asked_for(data, target=target, input=input, task=task, set=set), checks=())
    experiment, _ = choose(intake, base, None, 1)
    experiment = experiment.set(*(item for item in set if not item.startswith("data.")))
    rows = [(part, record) for part, records in intake.records.items() for record in records]
    found = rows[0] if row is None else next(((part, record) for part, record in rows if record.row == row), None)
    if found is None:
        aside = next((each for each in intake.rejected if each.line == row), None)
        if aside is not None:
            raise DataError(f"{aside.file}, line {row} was set aside: {aside.reason}", "mend the row")
        lines = [record.row for _, record in rows]
        raise DataError(f"{intake.spec.path} has no row that begins on line {row}", f"give a line from {min(lines)} to {max(lines)}")
    part, record = found
    tokenizer: Any = load_tokenizer(resolve(experiment.model.base))
    example = opened(experiment, tokenizer).prepare([record])[0]
    pieces = [tokenizer.decode([token]) for token in example.tokens]
    chat = isinstance(example.target, list)
    return Shown(
        record.source, record.row, part, pieces, list(example.tokens), list(example.target) if chat else [False] * len(pieces),
        "" if chat else str(record.values.get(intake.spec.target or "")), int(example.facts.get("cut", 0)),
    )  # fmt: skip
