"""Autoencoders of texts: a network learns to reconstruct what a frozen encoder says of texts from a short code; texts that it reconstructs badly are unusual."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Scores
from luthier.core.words import plural
from luthier.data.infer import find_text
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.families import text_autoencoder_proofs, text_defaults, token_proofs
from luthier.families.anomaly_baselines import component_baseline, mean_baseline, nearest_baseline
from luthier.families.choice import Choice
from luthier.families.vector_reconstruction_family import VectorReconstructionFamily
from luthier.objectives.text_autoencoder import TextAutoencoder

if TYPE_CHECKING:
    from luthier.core.cache import Cache
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.text_autoencoder import TextAutoencoderModel

EPOCHS = (
    (2_000, 40, "vectors are kept, so a pass is cheap: many passes over few texts"),
    (20_000, 25, "vectors are kept, so a pass is cheap"),
    (1 << 62, 8, "many texts"),
)
"""Below this many training rows, epochs, and why."""
BATCHES, STEPS = (64, 32, 16), 400
"""Texts a step, the most first, and steps that a run should have."""
SHOWN, LONGEST = 12, 300
"""Test texts that the report shows, and characters of each."""


class TextAutoencoderFamily(VectorReconstructionFamily):
    """See the module."""

    name = "text_autoencoder"
    kind = RowKind("text", "nothing")
    reads = "text"
    Spec = TextAutoencoder
    base = "minilm-l6"
    base_kinds = ("encoder",)
    epochs = EPOCHS
    lr = 1e-3, "new layers on vectors that stay: AdamW's own default"
    stays = "what is reconstructed is what the base says of a text: it has to stay as it is"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Texts, where a person insists; known classes are not learned: they say what is normal."""
        if asked.task != self.name:
            return None
        if asked.input:
            return self.columns_with(asked.input, rows, path, asked, "task and columns as given")
        column, why = find_text(rows, path, asked.target, ())
        return self.columns_with(column, rows, path, asked, why)

    # starting point

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS)

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> TextAutoencoderModel:
        """The encoder with layers that reconstruct its vectors: new ones, or a bundle's."""
        from luthier.models.text_autoencoder import load_text_autoencoder

        assert base is not None
        return load_text_autoencoder(base, spec.code, spec.hidden, spec.pooling, spec.max_length, seed)

    def start_head(
        self, model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
    ) -> bool:
        """Read every text once with the frozen base, and centre and scale by the training texts."""
        every = [*train, *validation]
        vectors = read_once(model, objective, fingerprint, every, cache)
        model.keep_vectors(every, vectors)
        if model.new:
            model.network.autoencoder.standardise_by(vectors[: len(train)])
        return True

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is trained on is what is served; what is reconstructed is what the base says; held-out rows stay as they are."""
        own = text_autoencoder_proofs
        return (token_proofs.trained_is_served, token_proofs.control_tokens_stand_once, *own.READ), own.ASK

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The mean vector, PCA with as many components as the code has numbers, and the nearest training text, on the same vectors."""
        numbers, code = context.objective.vectors, context.objective.spec.code
        results = [mean_baseline(train, validation, "error", numbers, "vector")]
        context.poll()
        results.append(component_baseline(train, validation, code, "error", numbers))
        context.poll()
        return [*results, nearest_baseline(train, validation, "error", numbers, "text")]

    def describe_errors(self, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """The most anomalous test texts."""
        order = np.argsort(-scores.more["anomaly"], kind="stable")[:SHOWN]
        labelled = any(example.facts["label"] for example in examples)
        rows = []
        for position in order.tolist():
            example, flagged = examples[position], bool(scores.more["flagged"][position])
            text = example.facts["text"]
            cells = (
                f"{scores.more['anomaly'][position]:.4g}",
                "above" if flagged else "below",
                *([example.facts["label"]] if labelled else []),
            )
            rows.append((*cells, text[:LONGEST] + ("…" if len(text) > LONGEST else "")))
        head = ("anomaly score", "threshold", *(["class"] if labelled else []), "text")
        return {"tables": [{"title": "The most anomalous test texts", "head": head, "rows": rows}]}

    # use

    def write_files(self, folder: Path, model: Any, processor: Any) -> list[str]:
        """How tokens become one vector."""
        from luthier.models.embedding import write_pooling

        return write_pooling(folder, model)


def read_once(model: Any, objective: Any, fingerprint: str, examples: Sequence[Example], cache: Cache) -> np.ndarray:
    """The frozen base's vector of each text; whoever goes on with the run finds them in its folder, # (examples, width) of float32

    Args:
        model: whose base reads.
        objective: collates.
        fingerprint: SHA-256 of the base's weights.
        examples: texts.
        cache: keeps what was read.
    """
    from luthier.models.encode import map_examples
    from luthier.models.frozen_cache import FrozenLayerCache

    key = hashlib.sha256(f"{fingerprint}\n{model.pooling}\n{FrozenLayerCache.fingerprint(examples)}".encode()).hexdigest()[:24]
    vectors = cache.get(f"vectors-{key}")
    if not vectors:
        cache.say(f"the frozen base reads {plural(len(examples), 'text')}, once")
        read = map_examples(model, objective, examples, lambda batch: model.row_vectors(batch).cpu().numpy(), cache.poll)
        vectors = {"vectors": read}
        cache.put(f"vectors-{key}", vectors)
    return vectors["vectors"]


FAMILY = TextAutoencoderFamily()
