"""Networks that say something of every token, through transformers' own classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from luthier.core.errors import ModelError
from luthier.core.types import Batch
from luthier.models.base import Base
from luthier.models.opened import open_network
from luthier.models.pretrained import PackedNetwork


class TokenClassifier(PackedNetwork):
    """An encoder with a head that gives each token a score for each label.

    Args:
        network: of transformers, for token classification.
        dropout: share of activations dropped while training.
    """

    adapter_task = "TOKEN_CLS"

    def forward(self, batch: Batch) -> Tensor:
        """The scores of every token, # (tokens, labels)"""
        return self.label(self.hidden_states(batch)[None])[0]

    def label(self, hidden: Tensor) -> Tensor:
        """The scores of tokens, # (rows, length, width) → (rows, length, labels)"""
        network = self.network
        hidden = network.drop(network.head(hidden)) if hasattr(network, "head") else network.dropout(hidden)
        return network.classifier(hidden)

    @property
    def head(self) -> list[nn.Module]:
        """The classifier and what comes before it: they are not part of the pretrained body."""
        return [getattr(self.network, name) for name in ("head", "classifier") if hasattr(self.network, name)]


def load_token_classifier(base: Base, labels: list[str], dropout: float, seed: int) -> TokenClassifier:
    """A base with a head for these labels; a head that fits in the base (a bundle) is kept.

    Args:
        base: an encoder.
        labels: of a token, in order.
        dropout: share of activations dropped while training.
        seed: of a new head's first weights.

    Raises:
        ModelError: the base is a decoder, or its architecture has no such head.
    """
    if base.kind != "encoder":
        raise ModelError(f"{base.name} is a decoder: a word's label depends on what follows it, which a decoder does not see", "use an encoder, such as --base minilm-l6")  # fmt: skip
    torch.manual_seed(seed)
    options: dict[str, Any] = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    network, _ = open_network(
        AutoModelForTokenClassification,
        base.folder,
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
        num_labels=len(labels),
        **options,
    )
    if not (hasattr(network, "classifier") and (hasattr(network, "dropout") or hasattr(network, "head"))):
        raise ModelError(f"{type(network).__name__} has no head that is known here", "use a BERT- or RoBERTa-shaped base")
    return TokenClassifier(network, dropout)
