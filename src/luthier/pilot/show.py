"""One row as the model will see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luthier.core.component import build, set_at_path
from luthier.core.errors import DataError
from luthier.core.interfaces import NullReporter
from luthier.core.types import Record
from luthier.data.augment import Augment
from luthier.data.dataset import Dataset
from luthier.data.sources.frames import Frame
from luthier.data.sources.images import HEIGHT, WIDTH, pixels
from luthier.experiment import Changes, as_assignments, number
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.pilot.stages.given_rows import accepts_frames
from luthier.pilot.stages.options import choose_experiment, data_spec, limit_to_positions, parse_assignments

SIDE = 256
"""Of a shown image, at most, in pixels."""


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
        target: what is learned, as text: the class, where there are classes; empty of answers.
        cut: tokens that are lost because the row is too long.
        views: how the row is learned from in the first steps in which it is changed.
        is_class: whether the target is one class.
        about: what is learned, in words, where tokens and target do not tell.
    """

    file: str
    line: int
    part: str
    pieces: list[str]
    tokens: list[int]
    learned: list[bool]
    target: str
    cut: int
    views: list[str]
    is_class: bool
    about: str = ""


@dataclass(frozen=True)
class ShownImage:
    """An image and its changed views.

    Args:
        file: the image.
        line: its row.
        part: train, validation or test.
        target: its class or number; empty where it has none.
        width: in pixels.
        height: in pixels.
        page: where the image and its views can be looked at; None where no page was asked for.
        is_class: whether the target is a class.
    """

    file: str
    line: int
    part: str
    target: str
    width: int
    height: int
    page: str | None
    is_class: bool


@accepts_frames
def show(
    data: str | Path | Frame,
    row: int | None = None,
    *,
    views: int = 0,
    page: str | Path | None = None,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    set: Changes = (),
) -> Shown | ShownImage:
    """Render one row as the model will see it, token by token, with what is learned; of an image, its changed views.

    Args:
        data: a file of rows, or a folder; or rows in memory (a data frame, an Arrow table, a list of dicts), or "-" for standard input.
        row: the line it begins on; the first training row when not given.
        views: so many changed views of it, as `augment` makes them.
        page: an HTML file to write an image and its views to.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: the base whose tokenizer and template count; the task's default when not given.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        set: changes to the experiment: {"optimizer.lr": 1e-4}, or "path=value", one or several.

    Raises:
        DataError: there is no such row, or it was set aside (and why).
    """
    assignments = as_assignments(set)
    dataset = load_dataset(data_spec(data, target=target, input=input, task=task, set=assignments), checks=())
    part, record = _find_row(dataset, row)
    changes = [item for item in assignments if not item.startswith("data.")]
    if dataset.reader.kind.images:
        return _image(dataset, record, part, views, page, changes)
    from luthier.models.store import resolve
    from luthier.training.assemble import open_objective

    experiment, _ = choose_experiment(dataset, base, changes, 1, NullReporter())
    base_of_it = resolve(experiment.model.base) if experiment.model.base else None
    experiment, _ = limit_to_positions(experiment, base_of_it)
    tokenizer: Any = family_of(dataset.spec.task).load_processor(base_of_it, experiment.objective, dataset)
    objective = open_objective(experiment, tokenizer)
    example = objective.prepare([record])[0]
    tokens, learned = objective.tokens_to_show(example)
    pieces = [tokenizer.decode([token]) for token in tokens]
    answers = dataset.reader.kind.answers
    if views and not objective.varies:
        raise DataError("augment changes texts that have a class or a number, and images", "leave --views out")
    text = " ".join(str(record.values.get(name) or "") for name in dataset.spec.input)
    return Shown(
        record.source, record.row, part, pieces, tokens, learned,
        "" if answers else dataset.reader.row_view(record, dataset.spec).target, int(example.facts.get("cut", 0)),
        [experiment.augment.view(text, experiment.seed, step, record.row) for step in range(views)],
        dataset.reader.kind.classes, objective.describe_learned(example),
    )  # fmt: skip


def _find_row(dataset: Dataset, row: int | None) -> tuple[str, Record]:
    """The row that begins on a line, and its part."""
    rows = [(part, record) for part, records in dataset.records.items() for record in records]
    match = rows[0] if row is None else next(((part, record) for part, record in rows if record.row == row), None)
    if match is not None:
        return match
    aside = next((rejected for rejected in dataset.rejected if rejected.line == row), None)
    if aside is not None:
        raise DataError(f"{aside.file}, line {row} was set aside: {aside.reason}", "mend the row")
    lines = [record.row for _, record in rows]
    raise DataError(f"{dataset.spec.path} has no row that begins on line {row}", f"give a line from {min(lines)} to {max(lines)}")


def _image(dataset: Dataset, record: Record, part: str, views: int, page: str | Path | None, changes: Sequence[str]) -> ShownImage:
    """An image, and where a page is asked for its views."""
    from luthier.delivery.views import write_views

    source = Path(record.source)
    file = (source if source.is_dir() else source.parent) / str(record.values[dataset.spec.input[0]])
    whole = Augment().model_dump()
    for path, text in parse_assignments(changes).items():
        set_at_path(whole, path.removeprefix("augment."), number(text), "augment")
    augment = cast(Augment, build(Augment, whole, "augment"))
    picture = pixels(file, SIDE)
    images = [augment.images.view(picture, 1, step, record.row) for step in range(views)]
    values, label = record.values, str(record.values.get(dataset.spec.target, "")) if dataset.spec.target else ""
    if page is not None:
        write_views(Path(page), " · ".join(filter(None, (file.name, label))), picture, images, augment.images.model_dump())
    elif views:
        raise DataError("the views of an image need a page to be shown on", "add --page views.html")
    return ShownImage(
        str(file),
        record.row,
        part,
        label,
        int(values[WIDTH]),
        int(values[HEIGHT]),
        str(page) if page else None,
        dataset.reader.kind.learns != "number",
    )
