"""Networks that reconstruct the vector of a text, as a frozen encoder gives it, from a short code.

Source: Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import gelu

from luthier.core.types import Batch
from luthier.models.embedding import EmbeddingModel, load_encoder, own_pooling
from luthier.models.frozen_cache import row_key, row_keys
from luthier.models.modes import eval_mode
from luthier.models.pooling import mean_of_windows

if TYPE_CHECKING:
    from luthier.core.types import Example
    from luthier.models.base import Base

OWN = "autoencoder."
"""What the names of the weights that are no encoder's begin with."""


class VectorAutoencoder(nn.Module):
    """Two layers to a code, two layers back; the last one is zero, so it begins by saying the mean vector of every text.

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
        """Centre and scale by the training texts: by the mean of each number, and by one standard deviation for all.

        Args:
            vectors: of the training texts, # (examples, width)
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


class TextAutoencoderModel(EmbeddingModel):
    """A frozen encoder and what reconstructs its vectors.

    Args:
        network: an encoder of transformers, with an `autoencoder` and a `threshold`.
        dropout: has nothing to act on: the encoder is frozen, and the noise regularises.
        pooling: mean (of all tokens) or cls (the first one).
        max_length: tokens of a text that are read.
        new: whether the layers that reconstruct are new.
    """

    def __init__(self, network: Any, dropout: float, pooling: str, max_length: int, new: bool) -> None:
        super().__init__(network, dropout, pooling, max_length)
        self.new = new
        self.width: int = network.config.hidden_size
        self._indices: dict[bytes, int] = {}
        self._kept: Tensor | None = None

    @property
    def head(self) -> list[nn.Module]:
        """What reconstructs."""
        return [self.network.autoencoder]

    def keep_vectors(self, examples: Sequence[Example], vectors: np.ndarray) -> None:
        """Remember the vectors of texts, which the frozen encoder would say again in each epoch.

        Args:
            examples: texts.
            vectors: of each, # (examples, width)
        """
        self._indices = {row_key(example.inputs): index for index, example in enumerate(examples)}
        self._kept = torch.from_numpy(vectors)

    def text_vectors(self, batch: Batch) -> Tensor:
        """The encoder's vector of each text, of length one (of a text in windows the mean of theirs), in fp32, # (examples, width)"""
        remembered = self._look_up(batch)
        if remembered is not None:
            return remembered
        with eval_mode(self), torch.no_grad():
            return mean_of_windows(self.embed(batch), batch)

    def _look_up(self, batch: Batch) -> Tensor | None:
        """What is kept of a batch's texts, # (examples, width); None where one of them is not."""
        if self._kept is None:
            return None
        indices = [self._indices.get(key, -1) for key in row_keys(batch)]
        return None if min(indices) < 0 else self._kept[indices].to(batch.lengths.device)

    def targets(self, batch: Batch) -> Tensor:
        """What is to be reconstructed: the vectors, centred and scaled as the training texts are, in fp32, # (examples, width)"""
        own = self.network.autoencoder
        return (self.text_vectors(batch) - own.mean.float()) / own.spread.float()

    def forward(self, batch: Batch) -> Tensor:
        """What is reconstructed of each text's vector, and what was to be, end to end, # (examples, 2 × width)

        Args:
            batch: with `flat["tokens"]`; where training adds noise also `each["noise"]`, # (examples, width)
        """
        own, target = self.network.autoencoder, self.targets(batch)
        inputs = target + batch.each["noise"] if "noise" in batch.each else target
        return torch.cat([own(inputs.to(own.to_code.weight.dtype)).float(), target], 1)


def load_text_autoencoder(base: Base, code: int, hidden: int, pooling: str, max_length: int, seed: int) -> TextAutoencoderModel:
    """An encoder as it is, with new layers behind it that reconstruct its vectors; those of a bundle are kept where they fit.

    Args:
        base: an encoder.
        code: numbers that a vector is written as.
        hidden: width of the layer on either side of the code.
        pooling: mean, cls, or auto: as the base's own files say.
        max_length: tokens of a text that are read.
        seed: of the new layers' first weights.

    Raises:
        ModelError: the base is a decoder.
    """
    network = load_encoder(base, seed)
    torch.manual_seed(seed)
    network.autoencoder = VectorAutoencoder(network.config.hidden_size, hidden, code)
    network.register_buffer("threshold", torch.tensor(float("inf")))
    with safe_open(base.folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys() if name.startswith(OWN) or name == "threshold"}  # noqa: SIM118
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if name.startswith(OWN)}
    new = shapes != {name: tensor.shape for name, tensor in stored.items() if name != "threshold"}
    if not new:
        network.load_state_dict(stored, strict=False)
    return TextAutoencoderModel(network, 0.0, own_pooling(base) if pooling == "auto" else pooling, max_length, new)
