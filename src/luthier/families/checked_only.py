"""Rows that can be read, checked and split, and not be trained on yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from luthier.core.types import Record
from luthier.families.family import Choice, Family

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.models.spec import Model
    from luthier.models.store import Base


class CheckedOnly(Family):
    """A family without an objective: everything beyond its rows is refused with the remedy."""

    def _refuse(self) -> NoReturn:
        _ = self.spec_class
        raise AssertionError("a family that is only checked has no hyperparameters")

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """Refused."""
        self._refuse()

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """Refused."""
        self._refuse()

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """Refused."""
        self._refuse()

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Any:
        """Refused."""
        self._refuse()

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """Refused."""
        self._refuse()
