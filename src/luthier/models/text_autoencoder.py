"""A frozen encoder of texts, and what reconstructs the vector that it gives of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.core.types import Batch
from luthier.models.embedding import EmbeddingModel, load_encoder, own_pooling
from luthier.models.frozen_cache import row_key, row_keys
from luthier.models.pooling import mean_of_windows
from luthier.models.vector_autoencoder import VectorAutoencoder, VectorReconstruction, attach_autoencoder

if TYPE_CHECKING:
    from luthier.core.types import Example
    from luthier.models.base import Base


class TextAutoencoderModel(VectorReconstruction, EmbeddingModel):
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

    def compute_vectors(self, batch: Batch) -> Tensor:
        """The encoder's vector of each text, of length one; of a text in windows the mean of theirs, # (examples, width)"""
        return mean_of_windows(self.embed(batch), batch)

    def key_of(self, example: Example) -> bytes:
        """Its tokens."""
        return row_key(example.inputs)

    def keys_of(self, batch: Batch) -> list[bytes]:
        """Their tokens."""
        return row_keys(batch)


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
    new = attach_autoencoder(network, VectorAutoencoder(network.config.hidden_size, hidden, code), base.folder)
    return TextAutoencoderModel(network, 0.0, own_pooling(base) if pooling == "auto" else pooling, max_length, new)
