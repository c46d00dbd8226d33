"""What families of images share: how images are found, compared, made into squares and asked about, and how a new convolutional network is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, NoRows, nearest
from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import Record
from luthier.data import similar_images
from luthier.data.archives import on_disk
from luthier.data.read_rows import read
from luthier.data.row_files import names_table
from luthier.data.rows import Rows
from luthier.data.sources.frames import STDIN, describe_value
from luthier.data.sources.images import ENDINGS, GREY, HEIGHT, KEPT, MODE, PIXELS_HASH, THUMBNAIL, WIDTH, images_of
from luthier.data.spec import Data
from luthier.families import text_defaults
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.models.base import ONE_SIDE
from luthier.models.preprocessing import Preprocessing, read_preprocessing
from luthier.objectives.squares import place_of

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.models.base import Base

BATCHES = (32, 16)
"""Images a step, the most first; in fewer a batch norm's statistics say little."""
MANY, LARGE_BATCH = 10_000, 128
"""Training images from which there are steps enough for so many images each, and small images are worth the larger squares (docs/results/families.md#image-bases)."""
PATIENCE = 12
"""Evaluations without a better one."""
SMALL, LARGE, FEW_PIXELS = 32, 64, 48
"""Sides of the squares, and the side of an image below which the smaller one is enough."""
LARGEST_SIDE = 512
"""That a square may have."""
SMALLEST_LARGE, MOST_TIMES = 128, 4
"""A base that was trained on larger squares than this is given smaller ones where most images would become more than so many times as large (docs/results/families.md#image-bases)."""

NO_LINEAR = "adapters stand beside linear layers, and the blocks of this network have none"


class ImageFamily(Family):
    """A family whose rows are images, and whose network is a small one from scratch or an image base."""

    base_kinds = ("image",)
    from_scratch = True
    steps: int
    """That a run should have."""

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """By how the images look."""
        return similar_images.clusters([record.values[THUMBNAIL] for record in records])

    def identity(self, record: Record, data: Data) -> str:
        """The hash of the pixels."""
        return record.values[PIXELS_HASH]

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most images a step that leave a run as many steps as it should have."""
        if len(dataset.records["train"]) >= MANY:
            return Choice("training.batch_size", LARGE_BATCH, "many images: larger steps pass them faster")
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, self.steps)

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """A new network has nothing that could be kept."""
        return ("full",) if base is None else ("full", "freeze", "gradual")

    def why_not(self, base: Base | None, adaptation: str) -> str:
        """A network of convolutions has no place for adapters."""
        return NO_LINEAR if base is None and adaptation == "lora" else ""

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Preprocessing:
        """How images are made into squares, shifted and scaled, as transformers writes it."""
        known = read_preprocessing(base.folder) if base is not None else None
        return Preprocessing(
            spec.side, spec.channels, *((known.mean, known.deviation) if known and known.channels == spec.channels else ())
        )

    def example_row(self, objective: Any) -> dict[str, Any]:
        """A small grey image."""
        from luthier.core.pictures import as_data, data_url

        return {objective.input[0]: data_url(as_data("example", np.full((16, 16, 3), 128, dtype=np.uint8)))}

    def texts_read(self, record: Record, objective: Any) -> list[list[str]]:
        """The file of the image."""
        return [[str(place_of(record, objective.input[0]))]]

    def rows_to_predict(self, data: Any, columns: Sequence[str]) -> tuple[list[Record], Path | None]:
        """An image, several, a folder of them, a table that names them, or rows."""
        return images_asked(data, columns[0])


def convolution_choices(regularised: str) -> list[Choice]:
    """What holds for every convolutional network from scratch, each with its reason.

    Args:
        regularised: why it needs no dropout.
    """
    return [
        Choice("training.patience", PATIENCE, "a network from scratch gets better by fits and starts"),
        Choice("training.dtype", "float32", "convolutions with batch norm are not measured in bf16"),
        *text_defaults.schedule(),
        Choice("model.dropout", 0.0, regularised),
        Choice("optimizer.weight_decay", 0.01, "not on biases and norms"),
    ]


def squares_of_base(dataset: Dataset, base: Base | None) -> list[Choice]:
    """The side and the colour of the squares that a base was trained on; small images are not blown up to a large base's whole side.

    Args:
        dataset: the rows.
        base: that is trained; None where the network is made from scratch, for which `fit_squares` chooses.
    """
    known = read_preprocessing(base.folder) if base is not None else None
    if known is None:
        return []
    choices = [Choice("objective.colour", "grey" if known.channels == 1 else "rgb", "what the base reads")]
    if known.side:
        sides = sorted(min(row.values[WIDTH], row.values[HEIGHT]) for row in dataset.records["train"])
        assert base is not None
        small = base.family not in ONE_SIDE and known.side > SMALLEST_LARGE and sides[len(sides) // 2] * MOST_TIMES < known.side
        side, why = (
            (known.side // 2, "half the side that the base was trained on: most images are much smaller")
            if small
            else (known.side, "as the base was trained")
        )
        choices.append(Choice("objective.side", min(side, LARGEST_SIDE), why))
    return choices


def find_image(rows: Rows) -> str:
    """The column that names the images of rows that the reader has looked at."""
    return next(name for name in rows.columns if str(rows.values[0].get(name) or "").lower().endswith(ENDINGS))


def fit_squares(spec: Any, dataset: Dataset, many: float = math.inf) -> Any:
    """The hyperparameters with the side and the colour that suit the training images, where they are not set.

    Args:
        spec: with `side` and `colour`.
        dataset: the rows.
        many: training images from which small ones become larger squares too: a network that halves its maps twice at the start sees more of them.
    """
    rows = [record.values for record in dataset.records["train"]]
    changes: dict[str, Any] = {}
    if not spec.side:
        sides = sorted(min(row[WIDTH], row[HEIGHT]) for row in rows)
        changes["side"] = SMALL if sides[len(sides) // 2] < FEW_PIXELS and len(rows) < many else LARGE
    if spec.colour == "auto":
        changes["colour"] = "grey" if all(row[MODE] in GREY for row in rows) else "rgb"
    return spec.model_copy(update=changes) if changes else spec


def images_asked(data: Any, column: str) -> tuple[list[Record], Path | None]:
    """The rows that a bundle is asked about.

    Args:
        data: a file, a folder, a table, a list of files, or rows that name them.
        column: that names the files.

    Returns:
        The rows; and the table, where there is one.

    Raises:
        DataError: a file that is not there or cannot be read, or rows without the column.
    """
    if isinstance(data, dict) or not isinstance(data, str | Path):
        listed = [data] if isinstance(data, dict) else data.to_dict("records") if hasattr(data, "to_dict") else list(data)
        for number, row in enumerate(listed, 1):
            name = row.get(column) if isinstance(row, dict) else row
            if not isinstance(name, str | os.PathLike) and not (isinstance(row, dict) and name is None):
                raise DataError(
                    f"row {number} is {describe_value(name)}, not the name of an image", "save the image as a file, and give its name"
                )
        rows = [row if isinstance(row, dict) else {column: str(row)} for row in listed]
        missing = next((number for number, row in enumerate(rows, 1) if not str(row.get(column) or "").strip()), None)
        if missing is not None:
            raise DataError(f"row {missing} has no {column!r}, which names the image", nearest(column, rows[missing - 1]))
        return _there([Record(number, row) for number, row in enumerate(rows, 1)], column), None
    if str(data) == STDIN:
        raise DataError("images are not read from standard input", "give an image, a folder of them, or a table")
    if not str(data).strip():
        raise DataError("no image was named", "give an image, a folder of them, or a table")
    path = Path(data)
    if _holds(path.is_dir):
        files = images_of(path)
        if not files:
            raise DataError(f"the folder {path} holds no images ({', '.join(ENDINGS)})", "give an image, a folder of them, or a table")
        return [Record(number, {column: str(file)}) for number, file in enumerate(files, 1)], None
    if path.suffix.lower() not in ENDINGS and (names_table(path) or on_disk(path) != path):
        try:
            table = read(path)
        except NoRows as problem:  # a training would need more
            raise DataError(problem.message, "give at least one row") from None
        if table.rejected:
            first = table.rejected[0]
            raise DataError(f"{path}, line {first.line}: {first.reason}", "mend the row: a prediction for every row is promised")
        if column not in table.columns:
            raise DataError(
                f"{path} has no column {column!r}, which the model was trained to read",
                nearest(column, [name for name in table.columns if name not in KEPT]),
            )
        records = [
            Record(record.row, {name: value for name, value in record.values.items() if name not in KEPT}, record.source)
            for record in table.records(str(path))
        ]
        return _there(records, column), path
    return _there([Record(1, {column: str(path)})], column), None


def _there(records: list[Record], column: str) -> list[Record]:
    """The rows, if each names a file."""
    for record in records:
        file = place_of(record, column)
        if record.source and on_disk(Path(record.source)).suffix.lower() == ".npz":
            continue  # it was just read
        if not _holds(file.is_file):
            beside = (
                [entry.name for entry in file.parent.iterdir() if entry.suffix.lower() in ENDINGS] if _holds(file.parent.is_dir) else []
            )
            where = f"{record.source}, line {record.row}" if record.source else f"row {record.row}"
            raise DataError(
                f"{where}: there is no image {str(record.values[column])[:200]}",
                nearest(file.name, beside) if beside else "check the path",
            )
    return records


def _holds(ask: Callable[[], bool]) -> bool:
    """Whether something holds of a path; of a name that no file can have, nothing does."""
    try:
        return ask()
    except (OSError, ValueError):  # too long, or with a character that no file's name has
        return False


def pixels_are_served(context: ProofContext) -> Proof:
    """What training sees of an image is what prediction would give the model, byte by byte."""
    for example in context.rows:
        trained, served = example.inputs["pixels"], context.serve(example.record)["pixels"]
        if not np.array_equal(trained, served):
            return Proof(held=False, claim="prediction would see other pixels than training", evidence=row_of(example))
    return Proof(
        held=True, claim=f"training and prediction see the same pixels of {len(context.rows)} images", evidence={"rows": len(context.rows)}
    )
