"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.data.infer import count_values, find_label
from luthier.data.reading import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.families.by_size import row_for
from luthier.families.class_family import ClassFamily, starts_where_it_must
from luthier.families.family import Choice
from luthier.families.image_family import ImageFamily, convolution_choices, find_image, fit_squares, pixels_are_served, squares_of_base
from luthier.objectives.image_classification import ImageClassification as Images

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.vision import ImageNetwork

EPOCHS = (
    (500, 40, "few images, and nothing pretrained: many passes"),
    (2_000, 25, "some hundred images, and nothing pretrained: many passes"),
    (10_000, 12, "a few thousand images"),
    (1 << 62, 6, "many images"),
)
"""Below this many training rows, epochs, and why."""
RATES = {"full": 1e-3, "freeze": 3e-4, "gradual": 3e-4, "lora": 1e-3}
"""Adaptation → learning rate of a network of ours, new or trained before."""
BASE_EPOCHS = (
    (500, 20, "few images: more passes over a base that knows what images look like"),
    (2_000, 10, "some hundred images, and a base that knows what images look like"),
    (10_000, 4, "a few thousand images, and a base that knows what images look like"),
    (1 << 62, 2, "many images, and a base that knows what images look like"),
)
"""The same for a base that learned from many images."""
BASE_RATES = {"full": 3e-4, "freeze": 1e-3, "gradual": 3e-4, "lora": 1e-3}
"""Adaptation → learning rate of a base that learned from many images."""
SEEN = 16
"""Side of the small pictures that the nearest class mean looks at."""
SPREADS = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0))
"""What the nearest class mean tries: by how much of a picture's whole variance two pictures of a class may differ."""


class ImageClassification(ImageFamily, ClassFamily):
    """See the module; the network is a ResNet, made from scratch."""

    name = "image_classification"
    kind = RowKind("image", "class")
    specificity = 3
    Spec = Images
    steps = 100
    pipeline_tag = "image-classification"
    gives = "classes"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Rows that name images, which the reader has looked at, and a label."""
        if not {"pixels", "thumbnail"} <= set(rows.columns):
            return None
        column = asked.input or (find_image(rows),)
        others = Rows(columns=[name for name in rows.columns if name not in (*column, *KEPT)], values=rows.values)
        target = asked.target or find_label(others, path, column)
        return Columns(self.name, column, target, f"{column[0]!r} names images; {count_values(rows, target)}")

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows, and by whether the network is new: then it learns at the usual rate of one."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(BASE_EPOCHS if learned_much(base) else EPOCHS, rows)
        return [
            Choice("adaptation.kind", "full", "a base of this size is tuned whole" if base else "a new network is trained whole"),
            *squares_of_base(dataset, base),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            Choice("training.evaluations_per_epoch", 1.0 if epochs > 10 else 2.0, "often enough to find the best of many passes"),
            *convolution_choices("batch norm regularises already"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By the adaptation; lower where a base could be forgotten."""
        if learned_much(base):
            return BASE_RATES[adaptation], "fine-tuning of image bases: 1e-4 to 1e-3 (docs/results/families.md#image-bases)"
        return RATES[adaptation], "AdamW's own default suits a small network with batch norm"

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> ImageNetwork:
        """A new ResNet, a bundle's, or an image base."""
        from luthier.models import vision

        if base is not None:
            return vision.load_network(base, spec.labels, spec.channels, model.dropout, seed, spec.side)
        return vision.new_network(spec.labels, spec.channels, spec.side, spec.width, spec.depth, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The classes, the side and the colour that suit the training images."""
        return fit_squares(super().fit_spec(spec, dataset), dataset)

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

        result = super().details(scores, spec)
        return {**result, "tables": [describe_two_classes(scores, spec.labels)]} if len(spec.labels) == 2 else result

    # use

    def usage(self, bundle: str) -> str:
        """What to type to use a bundle."""
        return f"luthier predict {bundle} image.png"


def learned_much(base: Base | None) -> bool:
    """Whether a base learned from many images, as those that somebody published did; a bundle of ours goes on like a new network."""
    return base is not None and base.bundle is None


def small_pictures(examples: Sequence[Example]) -> np.ndarray:
    """Each image as a few pixels from 0 to 1, # (examples, pixels)"""
    pictures = []
    for example in examples:
        pixels = example.inputs["pixels"].astype(np.float64) / 255
        edges = np.unique(np.linspace(0, len(pixels), min(SEEN, len(pixels)) + 1).astype(int))[:-1]
        sizes = np.diff(np.append(edges, len(pixels)))
        sums = np.add.reduceat(np.add.reduceat(pixels, edges, axis=0), edges, axis=1)
        pictures.append((sums / (sizes[:, None] * sizes[None, :])[:, :, None]).ravel())
    return np.stack(pictures)


def nearest_mean(train: Sequence[Example], validation: Sequence[Example], classes: int) -> Baseline:
    """The class whose mean picture is nearest; how sure that makes is chosen on the validation rows.

    Args:
        train: rows whose means are taken.
        validation: rows that choose how sure.
        classes: how many there are.
    """
    from luthier.evaluation.baselines import Baseline, scores_of

    pictures, target = small_pictures(train), np.array([example.target for example in train])
    counts = np.bincount(target, minlength=classes)
    means = np.stack(
        [pictures[target == number].mean(0) if counts[number] else np.full(pictures.shape[1], np.inf) for number in range(classes)]
    )
    whole = max(float(pictures.var(0).sum()), 1e-12)
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
