"""A linear classifier on the hidden states of an untouched base, and the average of two classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.core.types import Batch
from luthier.models.encode import layer_means
from luthier.models.pretrained import PackedNetwork


class LinearProbe(nn.Module):
    """One matrix on what an untouched base makes of a row: logits = weight · features + bias.

    The product is taken in fp64: a base may have columns a thousand times as large as their spread.

    Args:
        base: the untouched network.
        weight: # (classes, features)
        bias: # (classes,)
        temperature: the logits are divided by it.
    """

    def __init__(self, base: PackedNetwork, weight: Tensor, bias: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("weight", weight.double())
        self.register_buffer("bias", bias.double())
        self.temperature = temperature

    def forward(self, batch: Batch) -> Tensor:
        """The score of each class, # (examples, classes)"""
        features = layer_means(self.base, batch).flatten(1).double()
        weight, bias = (tensor.to(features.device) for tensor in (self.get_buffer("weight"), self.get_buffer("bias")))
        return (features @ weight.T + bias) / self.temperature


class AveragedModel(nn.Module):
    """The mean of two classifiers' probabilities.

    Args:
        trained: gives logits.
        probe: gives logits.
        temperature: the mean's logarithm is divided by it.
    """

    def __init__(self, trained: nn.Module, probe: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.trained, self.probe, self.temperature = trained, probe, temperature

    def forward(self, batch: Batch) -> Tensor:
        """The logarithm of the mean, # (examples, classes)"""
        both = torch.stack([model(batch).float().log_softmax(-1) for model in (self.trained, self.probe)])
        return (both.logsumexp(0) - torch.log(torch.tensor(2.0))) / self.temperature


def divide_logits(model: PackedNetwork, temperature: float) -> None:
    """Divide a classifier's logits for good, in the last linear layer of its head.

    Args:
        model: with a classification head; changed in place.
        temperature: above 0.
    """
    if temperature == 1.0:
        return
    with torch.no_grad():
        for parameter in last_layer(model).parameters():
            parameter.copy_(parameter.float() / temperature)


def last_layer(model: PackedNetwork) -> nn.Linear:
    """The last linear layer of a classifier's head: what it says are the logits."""
    last = model.network.score if model.causal else model.network.classifier
    return getattr(last, "out_proj", last)
