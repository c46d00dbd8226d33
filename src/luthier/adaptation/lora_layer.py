"""A linear layer with a LoRA adapter beside it, and merging the adapter into the base's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.core.randomness import seed_of
from luthier.models.dropout import Dropout, DropoutKeys


class LoraLinear(nn.Module):
    """A linear layer that stays, and a product of two thin ones that moves.

    Args:
        base: the layer; its weights are frozen.
        rank: width of the adapter.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs set to zero while training.
        site: the layer's dotted name; it keys the first weights and the dropout.
        dropout_keys: where dropout finds its keys.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, site: str, dropout_keys: DropoutKeys) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(seed_of("lora", site))
        bound = base.in_features**-0.5  # PEFT's: kaiming_uniform with a = √5
        self.lora_A = nn.Parameter((torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        self.dropout = Dropout(dropout, dropout_keys, f"{site}.lora")

    @property
    def weight(self) -> Tensor:
        """The base's: some networks ask a layer for its dtype before they use it (T5)."""
        return self.base.weight

    def forward(self, values: Tensor) -> Tensor:
        """# (…, in) → (…, out)"""
        return self.base(values) + (self.dropout(values) @ self.lora_A.t()) @ self.lora_B.t() * self.scale

    def merge(self) -> nn.Linear:
        """The layer with the adapter folded into its weights."""
        with torch.no_grad():
            self.base.weight += (self.lora_B.float() @ self.lora_A.float() * self.scale).to(self.base.weight.dtype)
        return self.base


def merge(network: nn.Module) -> None:
    """Fold every adapter of a network into the base's weights, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLinear):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.merge())
