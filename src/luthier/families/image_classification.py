"""Image classification: one class an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, nearest
from luthier.core.proof import Proof, ProofContext, ProofFunction, row_of
from luthier.core.types import Example, Record, Scores
from luthier.data import similar_images
from luthier.data.infer import count_values, find_label
from luthier.data.reading import Columns, RowKind
from luthier.data.rows import Rows, names_table, read
from luthier.data.sources.frames import describe_value
from luthier.data.sources.images import ENDINGS, KEPT, images_of
from luthier.data.spec import Data
from luthier.families import text_defaults
from luthier.families.class_family import ClassFamily, starts_where_it_must
from luthier.families.family import Choice
from luthier.objectives.image_classification import ImageClassification as Images
from luthier.objectives.image_classification import Squares

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.spec import Model
    from luthier.models.store import Base
    from luthier.models.vision import ImageNetwork

EPOCHS = (
    (500, 40, "few images, and nothing pretrained: many passes"),
    (2_000, 25, "some hundred images, and nothing pretrained: many passes"),
    (10_000, 12, "a few thousand images"),
    (1 << 62, 6, "many images"),
)
"""Below this many training rows, epochs, and why."""
BATCHES = (32, 16)
"""Images a step, the most first; in fewer a batch norm's statistics say little."""
STEPS = 100
"""That a run should have."""
PATIENCE = 12
"""Evaluations without a better one: a network from scratch gets better by fits and starts."""
RATES = {"full": 1e-3, "freeze": 3e-4, "gradual": 3e-4, "lora": 1e-3}
"""Adaptation → learning rate."""
SMALL, LARGE, FEW_PIXELS = 32, 64, 48
"""Sides of the squares, and the side of an image below which the smaller one is enough."""
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's names of images without colour."""
SEEN = 16
"""Side of the small pictures that the nearest class mean looks at."""
SPREADS = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0))
"""What the nearest class mean tries: by how much of a picture's whole variance two pictures of a class may differ."""


class ImageClassification(ClassFamily):
    """See the module; the network is a ResNet, made from scratch."""

    name = "image_classification"
    kind = RowKind("image", "class")
    specificity = 3
    Spec = Images
    base_kinds = ("image",)
    from_scratch = True
    pipeline_tag = "image-classification"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Rows that name images, which the reader has looked at, and a label."""
        if not {"pixels", "thumbnail"} <= set(rows.columns):
            return None
        column = asked.input or (find_image(rows),)
        others = Rows(columns=[name for name in rows.columns if name not in (*column, *KEPT)], values=rows.values)
        target = asked.target or find_label(others, path, column)
        return Columns(self.name, column, target, f"{column[0]!r} names images; {count_values(rows, target)}")

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """By how the images look."""
        return similar_images.clusters([record.values["thumbnail"] for record in records])

    def identity(self, record: Record, data: Data) -> str:
        """The hash of the pixels."""
        return record.values["pixels"]

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows; the network is new, and learns at the usual rate of one."""
        rows = len(dataset.records["train"])
        epochs, why = next((epochs, why) for limit, epochs, why in EPOCHS if rows < limit)
        return [
            Choice("adaptation.kind", "full", "a new network is trained whole"),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            Choice("training.evaluations_per_epoch", 1.0 if epochs > 10 else 2.0, "often enough to find the best of many passes"),
            Choice("training.patience", PATIENCE, "a network from scratch gets better by fits and starts"),
            Choice("training.dtype", "float32", "convolutions with batch norm are not measured in bf16"),
            *text_defaults.schedule(),
            Choice("model.dropout", 0.0, "batch norm regularises already"),
            Choice("optimizer.weight_decay", 0.01, "not on biases and norms"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By the adaptation."""
        return RATES[adaptation], "AdamW's own default suits a small network with batch norm"

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most images a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS)

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """A new network has nothing that could be kept."""
        return ("full",) if base is None else ("full", "freeze", "gradual")

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> ImageNetwork:
        """A new ResNet, or a bundle's."""
        from luthier.models import vision

        if base is not None:
            return vision.load_network(base, spec.labels, spec.channels, model.dropout, seed)
        return vision.new_network(spec.labels, spec.channels, spec.side, spec.width, spec.depth, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The classes, the side and the colour that suit the training images."""
        return fit_squares(super().fit_spec(spec, dataset), dataset)

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Squares:
        """How images are made into squares, as transformers writes it."""
        return Squares(spec.side, spec.channels)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; a new head knows nothing."""
        return (pixels_are_served,), (starts_where_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The most frequent class, and the nearest class mean of small pictures."""
        from luthier.evaluation import baselines

        frequent = baselines.majority_baseline(train, validation, context.classes)
        context.poll()
        return [frequent, nearest_mean(train, validation, context.classes)]

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """As of any classes; of two also sensitivity and specificity."""
        from luthier.evaluation.two_classes import describe_two_classes

        found = super().details(scores, spec)
        return {**found, "tables": [describe_two_classes(scores, spec.labels)]} if len(spec.labels) == 2 else found

    # use

    def rows_to_predict(self, data: Any, columns: Sequence[str]) -> tuple[list[Record], Path | None]:
        """An image, several, a folder of them, a table that names them, or rows."""
        return images_asked(data, columns[0])

    def usage(self, bundle: str) -> str:
        """What to type to use a bundle."""
        return f"luthier predict {bundle} image.png"


def find_image(rows: Rows) -> str:
    """The column that names the images of rows that the reader has looked at."""
    return next(name for name in rows.columns if str(rows.values[0].get(name) or "").lower().endswith(ENDINGS))


def fit_squares(spec: Any, dataset: Dataset) -> Any:
    """The hyperparameters with the side and the colour that suit the training images, where they are not set.

    Args:
        spec: with `side` and `colour`.
        dataset: the rows.
    """
    rows = [record.values for record in dataset.records["train"]]
    found: dict[str, Any] = {}
    if not spec.side:
        sides = sorted(min(row["width"], row["height"]) for row in rows)
        found["side"] = SMALL if sides[len(sides) // 2] < FEW_PIXELS else LARGE
    if spec.colour == "auto":
        found["colour"] = "grey" if all(row["mode"] in GREY for row in rows) else "rgb"
    return spec.model_copy(update=found) if found else spec


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
        given = [data] if isinstance(data, dict) else data.to_dict("records") if hasattr(data, "to_dict") else list(data)
        for number, row in enumerate(given, 1):
            name = row.get(column) if isinstance(row, dict) else row
            if not isinstance(name, str | os.PathLike) and not (isinstance(row, dict) and name is None):
                raise DataError(
                    f"row {number} is {describe_value(name)}, not the name of an image", "save the image as a file, and give its name"
                )
        rows = [row if isinstance(row, dict) else {column: str(row)} for row in given]
        missing = next((number for number, row in enumerate(rows, 1) if not str(row.get(column) or "").strip()), None)
        if missing is not None:
            raise DataError(f"row {missing} has no {column!r}, which names the image", nearest(column, rows[missing - 1]))
        return _there([Record(number, row) for number, row in enumerate(rows, 1)], column), None
    path = Path(data)
    if _holds(path.is_dir):
        files = images_of(path)
        if not files:
            raise DataError(f"the folder {path} holds no images ({', '.join(ENDINGS)})", "give an image, a folder of them, or a table")
        return [Record(number, {column: str(file)}) for number, file in enumerate(files, 1)], None
    if path.suffix.lower() not in ENDINGS and names_table(path):
        table = read(path)
        if table.rejected:
            first = table.rejected[0]
            raise DataError(f"{path}, line {first.line}: {first.reason}", "mend the row: a prediction for every row is promised")
        if column not in table.columns:
            raise DataError(f"{path} has no column {column!r}, which the model was trained to read", nearest(column, table.columns))
        records = [
            Record(record.row, {name: value for name, value in record.values.items() if name not in KEPT}, record.source)
            for record in table.records(str(path))
        ]
        return _there(records, column), path
    return _there([Record(1, {column: str(path)})], column), None


def _there(records: list[Record], column: str) -> list[Record]:
    """The rows, if each names a file."""
    from luthier.objectives.image_classification import place_of

    for record in records:
        place = place_of(record, column)
        if not _holds(place.is_file):
            beside = (
                [entry.name for entry in place.parent.iterdir() if entry.suffix.lower() in ENDINGS] if _holds(place.parent.is_dir) else []
            )
            where = f"{record.source}, line {record.row}" if record.source else f"row {record.row}"
            raise DataError(
                f"{where}: there is no image {str(record.values[column])[:200]}",
                nearest(place.name, beside) if beside else "check the path",
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


def small_pictures(examples: Sequence[Example]) -> np.ndarray:
    """Each image as a few pixels from 0 to 1, # (examples, pixels)"""
    found = []
    for example in examples:
        pixels = example.inputs["pixels"].astype(np.float64) / 255
        edges = np.unique(np.linspace(0, len(pixels), min(SEEN, len(pixels)) + 1).astype(int))[:-1]
        sizes = np.diff(np.append(edges, len(pixels)))
        sums = np.add.reduceat(np.add.reduceat(pixels, edges, axis=0), edges, axis=1)
        found.append((sums / (sizes[:, None] * sizes[None, :])[:, :, None]).ravel())
    return np.stack(found)


def nearest_mean(train: Sequence[Example], validation: Sequence[Example], classes: int) -> Baseline:
    """The class whose mean picture is nearest; how sure that makes is chosen on the validation rows.

    Args:
        train: rows whose means are taken.
        validation: rows that choose how sure.
        classes: how many there are.
    """
    from luthier.evaluation.baselines import Baseline, scores_of

    seen, target = small_pictures(train), np.array([example.target for example in train])
    counts = np.bincount(target, minlength=classes)
    means = np.stack([seen[target == number].mean(0) if counts[number] else np.full(seen.shape[1], np.inf) for number in range(classes)])
    whole = max(float(seen.var(0).sum()), 1e-12)
    prior = np.log((counts + 1) / (len(train) + classes))

    def scorer(spread: float) -> Callable[[Sequence[Example]], Scores]:
        def score(examples: Sequence[Example]) -> Scores:
            pictured = small_pictures(examples)
            apart = np.stack([((pictured - mean) ** 2).sum(1) for mean in means], axis=1)
            logits = prior - np.minimum(apart / (2 * spread * whole), 1e6)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            return scores_of(shares / shares.sum(1, keepdims=True), examples)

        return score

    tried = {spread: scorer(spread)(validation) for spread in SPREADS}
    best = min(tried, key=lambda spread: float(tried[spread].loss.mean()))
    return Baseline("nearest class mean of small pictures", scorer(best), tried[best])


FAMILY = ImageClassification()
