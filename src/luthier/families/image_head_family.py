"""What families have in common that put a head on a network for images and say one thing of an image: how it is made, how long and how fast it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.image_family import MANY, ImageFamily, convolution_choices, fit_squares, squares_of_base

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.vision import ImageNetwork

EPOCHS = (
    (500, 40, "few images, and nothing pretrained: many passes"),
    (2_000, 25, "some hundred images, and nothing pretrained: many passes"),
    (10_000, 12, "a few thousand images"),
    (1 << 62, 8, "many images"),
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
"""Side of the small pictures that the simplest baselines look at."""


class ImageHeadFamily(ImageFamily):
    """An image and a head; the network is a ResNet made from scratch, or a base."""

    steps = 100
    pipeline_tag = "image-classification"

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows, and by whether the network is new: then it learns at the usual learning rate of one."""
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

    def with_outputs(
        self, names: Sequence[str], spec: Any, model: Model, base: Base | None, seed: int, problem: str | None = None
    ) -> ImageNetwork:
        """A new ResNet, a bundle's, or an image base, with a head of so many outputs.

        Args:
            names: of the outputs, in order.
            spec: the hyperparameters of what is learned.
            model: dropout.
            base: from the store; None where the network is made from scratch.
            seed: of what is new.
            problem: what the outputs mean, as transformers calls it; None: classes.
        """
        from luthier.models import vision

        if base is not None:
            return vision.load_network(base, names, spec.channels, model.dropout, seed, spec.side, problem)
        return vision.make_network(names, spec.channels, spec.side, spec.width, spec.depth, model.dropout, seed, problem)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """What is learned of the rows, and the side and the colour that suit the training images."""
        return fit_squares(super().fit_spec(spec, dataset), dataset, MANY)

    # use

    def usage(self, bundle: str) -> str:
        """What to type to use a bundle."""
        return f"luthier predict {bundle} image.png"


def name_images(rows: Rows) -> bool:
    """Whether rows name images, which the reader has looked at."""
    return set(KEPT) <= set(rows.columns)


def learned_much(base: Base | None) -> bool:
    """Whether a base learned from many images, as those that somebody published did; a bundle of ours goes on like a new network."""
    return base is not None and base.bundle is None


def shrink_pictures(examples: Sequence[Example]) -> np.ndarray:
    """Each image as a few pixels from 0 to 1, # (examples, pixels)"""
    pictures = []
    for example in examples:
        pixels = example.inputs["pixels"].astype(np.float64) / 255
        edges = np.unique(np.linspace(0, len(pixels), min(SEEN, len(pixels)) + 1).astype(int))[:-1]
        sizes = np.diff(np.append(edges, len(pixels)))
        sums = np.add.reduceat(np.add.reduceat(pixels, edges, axis=0), edges, axis=1)
        pictures.append((sums / (sizes[:, None] * sizes[None, :])[:, :, None]).ravel())
    return np.stack(pictures)
