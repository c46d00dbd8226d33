"""Networks that rebuild the vector of a text, as a frozen encoder gives it, from a short code.

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
from luthier.models.frozen_cache import row_key
from luthier.models.modes import eval_mode

if TYPE_CHECKING:
    from luthier.core.types import Example
    from luthier.models.base import Base

OWN = "autoencoder."
"""What the names of the weights that are no encoder's begin with."""


class Rebuilder(nn.Module):
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

    def encode(self, vectors: Tensor) -> Tensor:
        """The code of each vector, # (examples, width) → (examples, code)"""
        return self.to_code(gelu(self.narrow(vectors)))

    def forward(self, vectors: Tensor) -> Tensor:
        """What is rebuilt of vectors that are centred and scaled, # (examples, width) → (examples, width)"""
        return self.to_vector(gelu(self.widen(self.encode(vectors))))


class TextAutoencoderModel(EmbeddingModel):
    """A frozen encoder and what rebuilds its vectors.

    Args:
        network: an encoder of transformers, with an `autoencoder` and a `threshold`.
        dropout: has nothing to act on: the encoder is frozen, and the noise regularises.
        pooling: mean (of all tokens) or cls (the first one).
        max_length: tokens of a text that are read.
        new: whether the layers that rebuild are new.
    """

    def __init__(self, network: Any, dropout: float, pooling: str, max_length: int, new: bool) -> None:
        super().__init__(network, dropout, pooling, max_length)
        self.new = new
        self.width: int = network.config.hidden_size
        self._places: dict[bytes, int] = {}
        self._kept: Tensor | None = None

    @property
    def head(self) -> list[nn.Module]:
        """What rebuilds."""
        return [self.network.autoencoder]

    def keep_vectors(self, examples: Sequence[Example], vectors: np.ndarray) -> None:
        """Remember the vectors of texts, which the frozen encoder would say again in each epoch.

        Args:
            examples: texts.
            vectors: of each, # (examples, width)
        """
        self._places = {_key(example.inputs): index for index, example in enumerate(examples)}
        self._kept = torch.from_numpy(vectors)

    def text_vectors(self, batch: Batch) -> Tensor:
        """The encoder's vector of each text, of length one (of a text in windows the mean of theirs), in fp32, # (examples, width)"""
        remembered = self._known(batch)
        if remembered is not None:
            return remembered
        with eval_mode(self), torch.no_grad():
            vectors = self.embed(batch)
            if len(vectors) == len(batch):
                return vectors
            ends = batch.lengths.cumsum(0)
            starts = (batch.flat["place"] == 0).nonzero()[:, 0]
            within = torch.bucketize(starts, ends, right=True).bincount(minlength=len(batch))
            return torch.segment_reduce(vectors, "mean", lengths=within, axis=0)

    def _known(self, batch: Batch) -> Tensor | None:
        """What is kept of a batch's texts, # (examples, width); None where one of them is not."""
        if self._kept is None:
            return None
        flat = {name: values.cpu().numpy() for name, values in batch.flat.items()}
        ends = batch.lengths.cumsum(0).tolist()
        keys = (_key({name: values[start:end] for name, values in flat.items()}) for start, end in zip([0, *ends], ends, strict=False))
        places = [self._places.get(key, -1) for key in keys]
        return None if min(places) < 0 else self._kept[places].to(batch.lengths.device)

    def targets(self, batch: Batch) -> Tensor:
        """What is to be rebuilt: the vectors, centred and scaled as the training texts are, in fp32, # (examples, width)"""
        own = self.network.autoencoder
        return (self.text_vectors(batch) - own.mean.float()) / own.spread.float()

    def forward(self, batch: Batch) -> Tensor:
        """What is rebuilt of each text's vector, and what was to be, end to end, # (examples, 2 × width)

        Args:
            batch: with `flat["tokens"]`; where training adds noise also `each["noise"]`, # (examples, width)
        """
        own, target = self.network.autoencoder, self.targets(batch)
        inputs = target + batch.each["noise"] if "noise" in batch.each else target
        return torch.cat([own(inputs.to(own.to_code.weight.dtype)).float(), target], 1)


def _key(inputs: Any) -> bytes:
    return row_key(np.asarray(inputs["tokens"]), inputs.get("segments"), inputs.get("place"))


def load_text_autoencoder(base: Base, code: int, hidden: int, pooling: str, max_length: int, seed: int) -> TextAutoencoderModel:
    """An encoder as it is, with new layers behind it that rebuild its vectors; those of a bundle are kept where they fit.

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
    network.autoencoder = Rebuilder(network.config.hidden_size, hidden, code)
    network.register_buffer("threshold", torch.tensor(float("inf")))
    stored: dict[str, Tensor] = {}
    with safe_open(base.folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys() if name.startswith(OWN) or name == "threshold"}  # noqa: SIM118
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if name.startswith(OWN)}
    new = shapes != {name: tensor.shape for name, tensor in stored.items() if name != "threshold"}
    if not new:
        network.load_state_dict(stored, strict=False)
    return TextAutoencoderModel(network, 0.0, own_pooling(base) if pooling == "auto" else pooling, max_length, new)
