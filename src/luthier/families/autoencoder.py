"""Autoencoders: a network learns to reconstruct images from a short code; images that it reconstructs badly are unusual. Its encoder is a base for classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.pictures import as_data
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.data.written_numbers import REMEDY, find_written_numbers
from luthier.families import autoencoder_proofs
from luthier.families.anomaly_baselines import component_baseline, flat_pictures, mean_baseline
from luthier.families.anomaly_family import AnomalyFamily
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.image_family import NO_LINEAR, ImageFamily, convolution_choices, find_image, fit_squares, pixels_are_served
from luthier.families.number_family import columns_of_amounts, say_numbers
from luthier.objectives.autoencoder import Autoencoder

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.autoencoder import AutoencoderModel
    from luthier.models.base import Base
    from luthier.models.spec import Model

EPOCHS = (
    (500, 100, "few images, and nothing pretrained: many passes"),
    (2_000, 40, "some hundred images, and nothing pretrained: many passes"),
    (10_000, 15, "a few thousand images"),
    (1 << 62, 6, "many images"),
)
"""Below this many training rows, epochs, and why."""
MANY_EPOCHS = 50
"""From which on every other one is evaluated."""
RATES = {"full": 3e-3, "freeze": 1e-3, "gradual": 1e-3}
"""Adaptation → learning rate."""
FEW = 400
"""Images below which one is told of what a pretrained network sees: of 68 normal scans this network learned less than PCA, of 350 about as much (docs/autoencoders.md#few-images)."""
SHOWN = 8
"""Test rows that the report shows as pictures."""


class ImageAutoencoder(AnomalyFamily, ImageFamily):
    """See the module."""

    name = "autoencoder"
    kind = RowKind("image", "nothing")
    specificity = 2
    Spec = Autoencoder
    steps = 200
    reads = "image"
    pipeline_tag = "image-feature-extraction"
    gives = "picture"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Images, where a person insists or where nothing says their classes; known classes are not learned: they say what is normal."""
        insists = asked.task == self.name
        if not set(KEPT) <= set(rows.columns):
            if not insists:
                return None
            raise DataError(f"{path}: an autoencoder learns from images, and no column of {', '.join(rows.columns)} names image files",
                            "give a folder of images, or a table with a column of their file names; for texts: --task text_autoencoder")  # fmt: skip
        column = asked.input or (find_image(rows),)
        why = f"{column[0]!r} names images, which are learned without classes"
        if len(rows.values) < FEW:
            why += f" (of so few images, {len(rows.values):,}, --task feature_autoencoder finds more, by what a pretrained network sees)"
        more = "" if insists else "; for classes, a sub-folder or a column for them is needed"
        numbers = columns_of_amounts(replace(rows, columns=[name for name in rows.columns if name not in KEPT]), column)
        if numbers and not insists:
            more += f"; {say_numbers(numbers)}, which are learned with --task image_regression --target {numbers[0]}"
        written = find_written_numbers(replace(rows, columns=[name for name in rows.columns if name not in KEPT]), column)
        if written and not insists:
            more += f"; the cells of {written[0]!r} {written[1]}: to learn them, {REMEDY}"
        return self.columns_with(column, rows, path, asked, why, more)

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(EPOCHS, rows)
        return [
            Choice("adaptation.kind", "full", "encoder and decoder are learned together"),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            Choice("training.evaluations_per_epoch", 0.5 if epochs > MANY_EPOCHS else 1.0, "often enough to find the best of many passes"),
            *convolution_choices("the short code regularises already"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By the adaptation; lower where a base could be forgotten."""
        if base is None and adaptation == "full":
            return RATES["full"], "a lower validation loss than with 1e-3 on chest X-rays and brain scans (docs/autoencoders.md)"
        kept = ": what the base knows is kept" if base is not None else ""
        return min(RATES.get(adaptation, 1e-3), 1e-3), f"AdamW's own default{kept}"

    def why_not(self, base: Base | None, adaptation: str) -> str:
        """Its network is one of convolutions, whatever it begins from."""
        return NO_LINEAR if adaptation == "lora" else ""

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> AutoencoderModel:
        """A new ResNet with a decoder, a bundle's, or a classifier's ResNet with a new decoder."""
        from luthier.models import autoencoder

        variational = spec.variant == "variational"
        if base is not None:
            return autoencoder.load_autoencoder(base, spec.channels, spec.side, spec.code, variational, model.dropout, seed)
        return autoencoder.make_autoencoder(spec.channels, spec.side, spec.width, spec.depth, spec.code, variational, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The side and the colour that suit the training images, and the class that is normal."""
        return fit_squares(super().fit_spec(spec, dataset), dataset)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; held-out rows stay as they are; a new decoder knows nothing."""
        return (pixels_are_served, *autoencoder_proofs.READ), autoencoder_proofs.ASK

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean picture, PCA with as many components as the code has numbers, and how flat a picture is."""
        score, results = context.objective.spec.score, [mean_baseline(train, validation, context.objective.spec.score)]
        context.poll()
        results.append(component_baseline(train, validation, context.objective.spec.code, score))
        context.poll()
        return [*results, flat_pictures(validation)] if score == "relative" else results

    def pictures(self, model: Any, objective: Any, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """The most anomalous test images, their reconstructions, and where the two differ."""
        anomaly, threshold = scores.more["anomaly"], float(model.network.threshold)
        order = np.argsort(-anomaly, kind="stable")[:SHOWN]
        reconstructed = objective.reconstruct(model, [examples[position] for position in order])
        rows = []
        for position, again in zip(order.tolist(), reconstructed, strict=True):
            example = examples[position]
            image = example.inputs["pixels"]
            apart = np.abs(image.astype(int) - again.astype(int)).max(2, keepdims=True).clip(0, 127).astype(np.uint8) * 2
            label = f", known as {example.facts['label']!r}" if example.facts["label"] else ""
            called = "above" if anomaly[position] > threshold else "below"
            rows.append({
                "caption": f"{example.record.values[objective.input[0]]}{label}: score {anomaly[position]:.4g}, {called} the threshold of {threshold:.4g}",
                "images": [as_data("as it is", image), as_data("as it is reconstructed", again), as_data("where they differ", apart)],
            })  # fmt: skip
        return {
            "title": "The most anomalous test images",
            "about": "As it is, as it is reconstructed from its code, and where the two differ.",
            "rows": rows,
        }

    # use

    def usage(self, bundle: str) -> str:
        """Images to look at; and the encoder as a base."""
        return f"luthier predict {bundle} image.png   or, as a base: luthier run labelled/ --base {bundle}"


FAMILY = ImageAutoencoder()
