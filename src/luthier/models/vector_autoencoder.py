"""What reconstructs the vectors that a frozen network gives of rows from a short code, and what a model of such a network and such layers does.

Source: Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import gelu

from luthier.core.types import Batch
from luthier.models.modes import eval_mode

if TYPE_CHECKING:
    from luthier.core.types import Example

OWN = "autoencoder."
"""What the names of the weights that are not the frozen network's begin with."""


class VectorAutoencoder(nn.Module):
    """Two layers to a code, two layers back; the last one is zero, so it begins by saying the mean vector of every row.

    Args:
        width: of a vector.
        hidden: of the layer on either side of the code.
        code: numbers that a vector is written as.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, hidden: int, code: int) -> None:
        super().__init__()
        self.narrow, self.to_code = nn.Linear(width, hidden), nn.Linear(hidden, code)
        self.widen, self.to_vector = nn.Linear(code, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.to_vector.weight)
        nn.init.zeros_(self.to_vector.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(()))

    def standardise_by(self, vectors: np.ndarray) -> None:
        """Centre and scale by the training rows: by the mean of each number, and by one standard deviation for all.

        Args:
            vectors: of the training rows, # (examples, width)
        """
        known = vectors.astype(np.float64)
        mean = known.mean(0)
        self.mean.copy_(torch.from_numpy(mean))
        self.spread.fill_(max(float(((known - mean) ** 2).mean() ** 0.5), 1e-6))

    def encode(self, vectors: Tensor) -> Tensor:
        """The code of each vector, # (examples, width) → (examples, code)"""
        return self.to_code(gelu(self.narrow(vectors)))

    def forward(self, vectors: Tensor) -> Tensor:
        """What is reconstructed of vectors that are centred and scaled, # (examples, width) → (examples, width)"""
        return self.to_vector(gelu(self.widen(self.encode(vectors))))


def attach_autoencoder(network: Any, layers: VectorAutoencoder, folder: Path) -> bool:
    """Put layers that reconstruct, and a threshold, beside a network; those of a bundle are kept where they fit.

    Args:
        network: that is frozen.
        layers: new ones.
        folder: of the base, which may be a bundle of such a network.

    Returns:
        Whether the layers are new.
    """
    network.autoencoder = layers
    network.register_buffer("threshold", torch.tensor(float("inf")))
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys() if name.startswith(OWN) or name == "threshold"}  # noqa: SIM118
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if name.startswith(OWN)}
    new = shapes != {name: tensor.shape for name, tensor in stored.items() if name != "threshold"}
    if not new:
        network.load_state_dict(stored, strict=False)
    return new


class VectorReconstruction:
    """A frozen network and what reconstructs its vectors: stands before the class of the network among a model's bases.

    `network` has an `autoencoder` and a `threshold`; `width` is that of a vector, `new` whether the layers that reconstruct are new.
    """

    network: Any
    width: int
    new: bool
    _indices: dict[bytes, int]
    _kept: Tensor | None = None

    # what a model says of its rows

    def compute_vectors(self, batch: Batch) -> Tensor:
        """The frozen network's vector of each row, in fp32, # (examples, width)"""
        raise NotImplementedError

    def key_of(self, example: Example) -> bytes:
        """What tells a row from another."""
        raise NotImplementedError

    def keys_of(self, batch: Batch) -> list[bytes]:
        """The same of each row of a batch."""
        raise NotImplementedError

    # what follows from it

    @property
    def head(self) -> list[nn.Module]:
        """What reconstructs."""
        return [self.network.autoencoder]

    def keep_vectors(self, examples: Sequence[Example], vectors: np.ndarray) -> None:
        """Remember the vectors of rows, which the frozen network would say again in each epoch.

        Args:
            examples: rows.
            vectors: of each, # (examples, width)
        """
        self._indices = {self.key_of(example): index for index, example in enumerate(examples)}
        self._kept = torch.from_numpy(vectors)

    def row_vectors(self, batch: Batch) -> Tensor:
        """The frozen network's vector of each row, kept or computed, in fp32, # (examples, width)"""
        kept = self._look_up(batch)
        if kept is not None:
            return kept
        with eval_mode(self), torch.no_grad():  # pyright: ignore[reportArgumentType]
            return self.compute_vectors(batch)

    def _look_up(self, batch: Batch) -> Tensor | None:
        """What is kept of a batch's rows, # (examples, width); None where one of them is not."""
        if self._kept is None:
            return None
        indices = [self._indices.get(key, -1) for key in self.keys_of(batch)]
        return None if min(indices) < 0 else self._kept[indices].to(batch.lengths.device)

    def targets(self, batch: Batch) -> Tensor:
        """What is to be reconstructed: the vectors, centred and scaled as those of the training rows are, in fp32, # (examples, width)"""
        own = self.network.autoencoder
        return (self.row_vectors(batch) - own.mean.float()) / own.spread.float()

    def forward(self, batch: Batch) -> Tensor:
        """What is reconstructed of each row's vector, and what was to be, end to end, # (examples, 2 × width)

        Args:
            batch: of rows; where training adds noise also `each["noise"]`, # (examples, width)
        """
        own, target = self.network.autoencoder, self.targets(batch)
        inputs = target + batch.each["noise"] if "noise" in batch.each else target
        return torch.cat([own(inputs.to(own.to_code.weight.dtype)).float(), target], 1)
