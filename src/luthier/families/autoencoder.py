"""Autoencoders: a network learns to draw images again from a short code; images that it draws badly are unusual. Its encoder is a base for classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, nearest
from luthier.core.pictures import as_data
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.core.words import plural
from luthier.data.infer import TARGET_NAMES, find_label, text_of
from luthier.data.reading import Columns, RowKind, RowView
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.data.usable_rows import reject_label
from luthier.evaluation.metric_choice import AUTO
from luthier.families import autoencoder_proofs
from luthier.families.anomaly_baselines import component_baseline, flat_pictures, mean_picture
from luthier.families.family import Choice
from luthier.families.image_family import ImageFamily, convolution_choices, find_image, fit_squares, pixels_are_served
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
NORMAL_NAMES = ("normal", "good", "ok", "healthy", "nominal", "no", "negative", "no_finding", "no finding")
"""What people call the class of rows that have nothing unusual, the likeliest first."""
SHOWN = 8
"""Test rows that the report shows as pictures."""


class ImageAutoencoder(ImageFamily):
    """See the module."""

    name = "autoencoder"
    kind = RowKind("image", "nothing")
    specificity = 2
    Spec = Autoencoder
    steps = 200
    metrics = ("loss", "anomaly_auc")
    pipeline_tag = "image-feature-extraction"
    gives = "picture"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Images, where a person insists or where nothing says their classes; known classes are not learned: they say what is normal."""
        insists = asked.task == self.name
        if not {"pixels", "thumbnail"} <= set(rows.columns):
            if not insists:
                return None
            raise DataError(f"{path}: an autoencoder learns from images, and no column of {', '.join(rows.columns)} names image files",
                            "give a folder of images, or a table with a column of their file names")  # fmt: skip
        column = asked.input or (find_image(rows),)
        target = asked.target or find_classes(rows, path, column)
        if target is not None and not insists:
            return None
        why = f"{column[0]!r} names images, which are learned without classes"
        if target is None:
            if asked.normal:
                raise DataError(f"{path}: data.normal={asked.normal} names a class, and no column holds classes", "name the column with --target, or leave data.normal out")  # fmt: skip
            more = "" if insists else "; for classes, a sub-folder or a column for them is needed"
            return Columns(self.name, column, None, why + more, normal="")
        target, why, normal = choose_normal(rows, path, target, asked.normal, why)
        return Columns(self.name, column, target, why, normal=normal)

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Where one class is normal, a row without a class says nothing."""
        return super().reject_reason(record, columns) or (reject_label(record, columns) if columns.normal else "")

    def row_view(self, record: Record, data: Data) -> RowView:
        """Known classes are split in proportion."""
        return RowView(str(record.values.get(data.input[0]) or ""), "", str(record.values.get(data.target) or "") if data.target else "")

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows."""
        rows = len(dataset.records["train"])
        epochs, why = next((epochs, why) for limit, epochs, why in EPOCHS if rows < limit)
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
        return min(RATES.get(adaptation, 1e-3), 1e-3), "AdamW's own default: what the base knows is kept"

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """The loss on normal validation rows chooses the checkpoint: it needs no abnormal rows."""
        why = "what is learned is what is measured" + ("; the verdict is on the anomaly AUC" if dataset.spec.normal else "")
        return [Choice("training.metric", "loss" if asked == AUTO else asked, why)]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> AutoencoderModel:
        """A new ResNet with a decoder, a bundle's, or a classifier's ResNet with a new decoder."""
        from luthier.models import autoencoder

        variational = spec.variant == "variational"
        if base is not None:
            return autoencoder.load_autoencoder(base, spec.channels, spec.side, spec.code, variational, model.dropout, seed)
        return autoencoder.new_autoencoder(spec.channels, spec.side, spec.width, spec.depth, spec.code, variational, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The side and the colour that suit the training images, and the class that is normal."""
        normal = dataset.spec.normal or None
        return fit_squares(spec.model_copy(update={"normal": normal}) if normal else spec, dataset)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; held-out rows stay as they are; a new decoder knows nothing."""
        return (pixels_are_served, *autoencoder_proofs.READ), autoencoder_proofs.ASK

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean picture, PCA with as many components as the code has numbers, and how flat a picture is."""
        score, found = context.objective.spec.score, [mean_picture(train, validation, context.objective.spec.score)]
        context.poll()
        found.append(component_baseline(train, validation, context.objective.spec.code, score))
        context.poll()
        return [*found, flat_pictures(validation)] if score == "relative" else found

    def fit_after_training(self, model: Any, objective: Any, validation: Sequence[Example]) -> str:
        """The anomaly score that the asked share of normal validation images lies above."""
        from luthier.evaluation.score import score

        normal = [example for example in validation if example.facts["abnormal"] <= 0]
        scores = np.sort(score(model, objective, normal).more["anomaly"])
        share = objective.spec.false_alarms
        threshold = threshold_of(scores, share)
        model.network.threshold.fill_(threshold)
        rough = "" if len(scores) * share >= 1 else f"; so few cannot tell a share of {share:.0%}: more validation images are needed"
        return f"an image counts as anomalous above a score of {threshold:.4g}: {plural(int((scores > threshold).sum()), 'normal validation image')} of {len(scores):,} lie above it{rough}"

    def metrics_of_verdict(self, metrics: tuple[str, ...], scores: Scores) -> tuple[str, ...]:
        """Where the test rows are known to be normal or not, how well the two are told apart decides."""
        if {0, 1} <= set(scores.more["abnormal"].tolist()):
            return ("anomaly_auc", *(name for name in metrics if name != "anomaly_auc"))
        return metrics

    def target_text(self, example: Example) -> str:
        """The class, where it is known."""
        return example.facts["label"] or "the image itself"

    def predicted_text(self, scores: Scores, position: int) -> str:
        """How unusual the image is."""
        return f"anomaly score {scores.more['anomaly'][position]:.4g}"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """What the threshold finds, and what it calls wrongly."""
        from luthier.evaluation.two_classes import shown_share

        if "flagged" not in scores.more:
            return {}
        flagged, abnormal = scores.more["flagged"] > 0, scores.more["abnormal"]
        kinds = (("all images", np.ones(len(flagged), bool)), ("normal (false alarms)", abnormal == 0), ("abnormal (found)", abnormal == 1))
        rows = [(name, int(of.sum()), int(flagged[of].sum()), shown_share(int(flagged[of].sum()), int(of.sum()))) for name, of in kinds if of.any()]  # fmt: skip
        title = f"Called anomalous at a false-alarm rate of {spec.false_alarms:.0%}, fitted on the validation rows"
        return {"tables": [{"title": title, "head": ("test rows", "images", "called anomalous", "share [95 % interval]"), "rows": rows}]}

    def pictures(self, model: Any, objective: Any, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """The most anomalous test images, what is drawn of them, and where the two differ."""
        anomaly, threshold = scores.more["anomaly"], float(model.network.threshold)
        order = np.argsort(-anomaly, kind="stable")[:SHOWN]
        drawn = objective.reconstruct(model, [examples[position] for position in order])
        rows = []
        for position, again in zip(order.tolist(), drawn, strict=True):
            example = examples[position]
            image = example.inputs["pixels"]
            apart = np.abs(image.astype(int) - again.astype(int)).max(2, keepdims=True).clip(0, 127).astype(np.uint8) * 2
            label = f", known as {example.facts['label']!r}" if example.facts["label"] else ""
            called = "above" if anomaly[position] > threshold else "below"
            rows.append({
                "caption": f"{example.record.values[objective.input[0]]}{label}: score {anomaly[position]:.4g}, {called} the threshold of {threshold:.4g}",
                "images": [as_data("as it is", image), as_data("as it is drawn", again), as_data("where they differ", apart)],
            })  # fmt: skip
        return {
            "title": "The most anomalous test images",
            "about": "As it is, as it is drawn again from its code, and where the two differ.",
            "rows": rows,
        }

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """How unusual each image is, and whether that is more than normal images are."""
        from luthier.evaluation.score import score

        if not records:
            return []
        threshold = float(model.network.threshold)
        found = score(model, objective, objective.prepare(records)).more["anomaly"]
        return [{"anomaly_score": float(value), "anomalous": bool(value > threshold)} for value in found]

    def usage(self, bundle: str) -> str:
        """Images to look at; and the encoder as a base."""
        return f"luthier predict {bundle} image.png   or, as a base: luthier run labelled/ --base {bundle}"


def find_classes(rows: Rows, path: str, column: tuple[str, ...]) -> str | None:
    """The column of known classes; None where there is none. A column that is called label may hold one value: training rows of one class are enough."""
    others = [name for name in rows.columns if name not in (*column, *KEPT)]
    named = [name for name in others if name.lower() in TARGET_NAMES]
    if named:
        return min(named, key=lambda name: TARGET_NAMES.index(name.lower()))
    try:
        return find_label(Rows(columns=others, values=rows.values), path, column)
    except DataError:
        return None


def choose_normal(rows: Rows, path: str, target: str, asked: str | None, why: str) -> tuple[str | None, str, str]:
    """The column of known classes, the reason, and the class that is normal: as asked, or found by its name.

    Args:
        rows: of the training file.
        path: of it, for messages.
        target: the column of the classes.
        asked: the class; None looks for one, an empty text learns from all rows.
        why: begins the reason.

    Raises:
        DataError: no row has the class that was asked for.
    """
    classes = sorted({text_of(row.get(target)) for row in rows.values} - {""})
    if asked:
        if asked not in classes:
            raise DataError(f"{path}: no row has the class {asked!r} in the column {target!r}", nearest(asked, classes))
        return target, f"{why}; rows of the class {asked!r} are normal, as asked", asked
    named = [name for known in NORMAL_NAMES for name in classes if name.lower() == known] if asked is None else []
    if not named:
        about = f"{plural(len(classes), 'class')} of {target!r} are not read" if len(classes) != 1 else f"{target!r} is not read"
        return None, f"{why}; {about} (say which is normal with --set data.normal=CLASS)", ""
    return target, f"{why}; rows of the class {named[0]!r} of {target!r} are taken as normal, by its name", named[0]


def threshold_of(scores: np.ndarray, share: float) -> float:
    """The score that at most so large a share of new normal rows is expected to exceed: an order statistic; the highest where the rows are too few.

    Source: Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", section 4.1 (split conformal).

    Args:
        scores: of normal rows, ascending, # (rows,)
        share: of false alarms.
    """
    place = int(np.ceil((len(scores) + 1) * (1 - share)))
    return float(scores[min(place, len(scores)) - 1])


FAMILY = ImageAutoencoder()
