"""Autoencoders of what a pretrained network sees in images: its maps are reconstructed from a short code, and images whose maps are reconstructed badly are unusual."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.pictures import as_data
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.core.words import plural
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.families import feature_autoencoder_proofs
from luthier.families.anomaly_baselines import (
    MOST,
    component_baseline,
    flat_pictures,
    mean_baseline,
    nearest_baseline,
    small_greys,
)
from luthier.families.choice import Choice
from luthier.families.image_family import ImageFamily, find_image, fit_squares, pixels_are_served, squares_of_base
from luthier.families.vector_reconstruction_family import VectorReconstructionFamily
from luthier.objectives.feature_autoencoder import FeatureAutoencoder

if TYPE_CHECKING:
    from luthier.core.cache import Cache
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.feature_autoencoder import FeatureAutoencoderModel
    from luthier.models.spec import Model

EPOCHS = (
    (500, 40, "what the base sees is kept, so a pass is cheap: many passes over few images"),
    (2_000, 25, "what the base sees is kept, so a pass is cheap: many passes"),
    (10_000, 10, "what the base sees is kept, so a pass is cheap"),
    (1 << 62, 4, "many images"),
)
"""Below this many training rows, epochs, and why."""
SHOWN = 8
"""Test rows that the report shows as pictures."""


class FeatureAutoencoderFamily(VectorReconstructionFamily, ImageFamily):
    """See the module."""

    name = "feature_autoencoder"
    kind = RowKind("image", "nothing")
    reads = "image"
    Spec = FeatureAutoencoder
    base = "efficientnet-lite0"
    from_scratch = False
    steps = 200
    epochs = EPOCHS
    lr = 3e-4, "layers that begin as PCA, and are to get better and not to begin anew"
    stays = "what is reconstructed is what the base sees in an image: it has to stay as it is"
    pipeline_tag = "image-feature-extraction"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Images, where a person insists; known classes are not learned: they say what is normal."""
        if asked.task != self.name:
            return None
        if not set(KEPT) <= set(rows.columns):
            raise DataError(f"{path}: a {self.name} model learns from images, and no column of {', '.join(rows.columns)} names image files",
                            "give a folder of images, or a table with a column of their file names; for texts: --task text_autoencoder")  # fmt: skip
        column = asked.input or (find_image(rows),)
        return self.columns_with(column, rows, path, asked, f"{column[0]!r} names images, which are learned without classes")

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows, and squares as the base reads them."""
        adaptation, *others = super().defaults(dataset, base, metric)
        return [adaptation, *squares_of_base(dataset, base), *others]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> FeatureAutoencoderModel:
        """The base with layers that reconstruct its maps: new ones, or a bundle's."""
        from luthier.models.feature_autoencoder import load_feature_autoencoder

        assert base is not None
        return load_feature_autoencoder(base, spec.channels, spec.side, spec.grid, spec.code, spec.hidden, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The side and the colour that suit the training images where no base says them, and the class that is normal."""
        return fit_squares(super().fit_spec(spec, dataset), dataset)

    def start_head(
        self, model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
    ) -> bool:
        """Look at every image once with the frozen base, centre and scale by the training images, and begin as PCA."""
        vectors, components = read_once(model, objective, fingerprint, train, validation, cache)
        model.keep_vectors([*train, *validation], vectors)
        if model.new:
            model.network.autoencoder.standardise_by(vectors[: len(train)])
            model.network.autoencoder.begin_with(components)
        return True

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; what is reconstructed is what the base sees; held-out rows stay as they are."""
        own = feature_autoencoder_proofs
        return (pixels_are_served, *own.READ), own.ASK

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """On the same maps the mean, PCA with as many components as the code has numbers, and the nearest training image; PCA of the pixels, and how flat a picture is."""
        numbers, code = context.objective.vectors, context.objective.spec.code
        results = [mean_baseline(train, validation, "error", numbers, "map")]
        for make in (
            lambda: component_baseline(train, validation, code, "error", numbers, " of the base's maps"),
            lambda: component_baseline(train, validation, code, "relative", small_greys, " of the pixels"),
            lambda: nearest_baseline(train, validation, "error", numbers),
            lambda: flat_pictures(validation),
        ):
            context.poll()
            results.append(make())
        return results

    def pictures(self, model: Any, objective: Any, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """The most anomalous test images, and in which places the base sees what it did not see in training images."""
        anomaly, threshold = scores.more["anomaly"], float(model.network.threshold)
        order = np.argsort(-anomaly, kind="stable")[:SHOWN]
        places = objective.place_errors(model, [examples[position] for position in order])
        rows = []
        for position, errors in zip(order.tolist(), places, strict=True):
            example = examples[position]
            image = example.inputs["pixels"]
            label = f", known as {example.facts['label']!r}" if example.facts["label"] else ""
            called = "above" if anomaly[position] > threshold else "below"
            rows.append({
                "caption": f"{example.record.values[objective.input[0]]}{label}: score {anomaly[position]:.4g}, {called} the threshold of {threshold:.4g}",
                "images": [as_data("as it is", image), as_data("where it is unusual", draw_places(errors, places.max(), len(image)))],
            })  # fmt: skip
        return {
            "title": "The most anomalous test images",
            "about": "As it is, and how badly each place of it is reconstructed: the brighter, the worse.",
            "rows": rows,
        }

    # use

    def usage(self, bundle: str) -> str:
        """Images to look at."""
        return f"luthier predict {bundle} image.png"


def draw_places(errors: np.ndarray, brightest: float, side: int) -> np.ndarray:
    """Errors of places as squares of grey, # (rows, columns) → (side, side, 1) of uint8

    Args:
        errors: of each place.
        brightest: error that is drawn white.
        side: of the image, in pixels.
    """
    rows, columns = (np.arange(side) * count // side for count in errors.shape)
    greys = np.clip(255 * errors / max(brightest, 1e-12), 0, 255).astype(np.uint8)
    return greys[rows[:, None], columns[None, :]][:, :, None]


def read_once(
    model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
) -> tuple[np.ndarray, np.ndarray]:
    """What the frozen base sees of each image, and the principal components of the training ones; whoever goes on with the run finds both in its folder.

    Args:
        model: whose base reads.
        objective: collates, and knows how many components there may be.
        fingerprint: SHA-256 of the base's weights.
        train: images that the components are of; of more than `MOST` a part.
        validation: images that are read too.
        cache: keeps what was read.

    Returns:
        # (examples, width) of float32, (components, width) of float64
    """
    from sklearn.decomposition import PCA

    from luthier.models.encode import map_examples
    from luthier.models.feature_autoencoder import image_key

    every = [*train, *validation]
    digest = hashlib.sha256(f"{fingerprint}\n{model.depth} {model.places} {objective.spec.code} {len(train)}\n".encode())
    for example in every:
        digest.update(image_key(example.inputs["pixels"]))
    name = f"maps-{digest.hexdigest()[:24]}"
    found = cache.get(name)
    if not found:
        cache.say(f"the frozen base looks at {plural(len(every), 'image')}, once")
        vectors = map_examples(model, objective, every, lambda batch: model.row_vectors(batch).cpu().numpy(), cache.poll)
        some = vectors[np.unique(np.linspace(0, len(train) - 1, min(MOST, len(train))).astype(int))].astype(np.float64)
        fitted: Any = PCA(n_components=min(objective.spec.code, len(some) - 1, some.shape[1]), random_state=0).fit(some)
        found = {"vectors": vectors, "components": fitted.components_}
        cache.put(name, found)
    return found["vectors"], found["components"]


FAMILY = FeatureAutoencoderFamily()
