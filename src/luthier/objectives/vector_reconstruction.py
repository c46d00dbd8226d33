"""What is shared where the vectors that a frozen network gives of rows are reconstructed: noise that goes in, errors, and what the baselines look at.

Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import HELD_OUT, Batch, Example
from luthier.objectives.anomaly import AnomalyObjective, normal_draws

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from luthier.core.cache import Cache


class VectorReconstructionObjective(AnomalyObjective):
    """Stands before the class that reads the rows among an objective's bases; its hyperparameters have `noise`."""

    def __init__(self, spec: Any, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self._model: Any = None
        self._read: dict[bytes, np.ndarray] = {}
        """What the baselines have asked of: each of several would have the base read the test rows again."""

    def begin(self, model: Any, examples: Sequence[Example], cache: Cache) -> None:
        """The baselines reconstruct the same vectors, and noise is as wide as they are."""
        self._model, self._read = model, {}

    def targets(self, examples: Sequence[Example]) -> torch.Tensor:
        """1 for each row that is known to be abnormal, 0 for each normal one, -1 where nobody knows, # (examples,)"""
        import torch

        return torch.tensor([example.facts["abnormal"] for example in examples])

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The rows of a step, and the noise of each: the same for the same seed, step and row; none for held-out rows.

        # noise: (examples, width)
        """
        import torch

        found: Batch = super().collate(examples, seed, step)  # pyright: ignore[reportAttributeAccessIssue]  # of the class that reads the rows
        abnormal = found.each["target"]
        each = {name: values for name, values in found.each.items() if name != "target"}
        each |= {"abnormal": abnormal, "learned": (abnormal <= 0).float()}
        if step != HELD_OUT and self.spec.noise:
            rows = np.array([example.index for example in examples])
            each["noise"] = torch.from_numpy(self.spec.noise * normal_draws(rows, self._model.width, seed, "noise", step))
        return Batch(index=found.index, lengths=found.lengths, flat=found.flat, each=each)

    def vectors(self, examples: Sequence[Example]) -> np.ndarray:
        """What the model has to reconstruct of rows: the base's vectors, centred and scaled as those of the training rows, # (examples, width)

        Args:
            examples: of any part.
        """
        import torch

        from luthier.models.encode import map_examples
        from luthier.models.modes import eval_mode

        model, keys = self._model, [self._model.key_of(example) for example in examples]
        new = list({key: example for key, example in zip(keys, examples, strict=True) if key not in self._read}.items())
        if new:
            with eval_mode(model), torch.no_grad():
                read = map_examples(model, self, [example for _, example in new], lambda batch: model.targets(batch).cpu().numpy())
            self._read.update(zip((key for key, _ in new), read, strict=True))
        return np.stack([self._read[key] for key in keys]).astype(np.float64)

    def _errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Each vector's squared error, nothing besides, and what was to be reconstructed, # (examples,), (examples,), (examples, width)"""
        import torch

        reconstructed, target = model(batch).chunk(2, dim=1)
        squared = (reconstructed - target).square().sum(1)
        return squared, torch.zeros_like(squared), target
