"""What families share that reconstruct what a frozen network says of rows: their defaults, and that the base does not move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.families import text_defaults
from luthier.families.anomaly_family import AnomalyFamily
from luthier.families.by_size import row_for
from luthier.families.choice import Choice

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.models.base import Base

PATIENCE = 8
"""Evaluations without a better one."""


class VectorReconstructionFamily(AnomalyFamily):
    """Stands before the class that reads the rows, where there is one, among a family's bases."""

    trains_base = False
    gives = "rebuilt"
    epochs: Sequence[tuple[int, int, str]]
    """Below this many training rows, epochs, and why."""
    lr: tuple[float, str]
    """The learning rate, the same for every base, and why."""
    stays: str
    """Why the base does not move."""

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows."""
        epochs, why = row_for(self.epochs, len(dataset.records["train"]))
        return [
            Choice("adaptation.kind", "freeze", self.stays),
            Choice("optimizer.lr", *self.learning_rate(base, "freeze")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            Choice("training.evaluations_per_epoch", 1.0, "often enough to find the best of many passes"),
            Choice("training.patience", PATIENCE, "new layers get better slowly towards the end"),
            Choice("training.dtype", "float32", "an anomaly score is compared with a threshold: bfloat16 would move it"),
            *text_defaults.schedule(),
            Choice("model.dropout", 0.0, "the noise and the short code regularise already"),
            Choice("optimizer.weight_decay", 0.01, "not on biases and norms"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """The same for every base: the layers are new."""
        return self.lr

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """The base does not move."""
        return ("freeze",)

    def why_not(self, base: Base | None, adaptation: str) -> str:
        """The base does not move."""
        return "" if adaptation == "freeze" else self.stays
