"""A linear model on the hidden states of an untouched base, and the average of two models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from luthier.core.interfaces import TrainableModel
from luthier.core.types import Batch, Link
from luthier.models.encode import layer_means
from luthier.models.pretrained import PackedNetwork


class LinearProbe(nn.Module):
    """One matrix on what an untouched base makes of a row: outputs = weight · features + bias.

    The product is taken in fp64: a base may have columns a thousand times as large as their spread.

    Args:
        base: the untouched network.
        weight: # (outputs, features)
        bias: # (outputs,)
        temperature: the outputs are divided by it.
    """

    def __init__(self, base: PackedNetwork, weight: Tensor, bias: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("weight", weight.double())
        self.register_buffer("bias", bias.double())
        self.temperature = temperature

    def forward(self, batch: Batch) -> Tensor:
        """The score of each class or label, or the number, # (examples, outputs)"""
        features = layer_means(self.base, batch).flatten(1).double()
        weight, bias = (tensor.to(features.device) for tensor in (self.get_buffer("weight"), self.get_buffer("bias")))
        return (features @ weight.T + bias) / self.temperature


class AveragedModel(nn.Module):
    """The mean of two models' probabilities, or of their numbers.

    Args:
        trained: gives outputs.
        probe: gives outputs.
        temperature: the outputs whose probabilities are the mean are divided by it.
        link: what makes of outputs what is said.
    """

    def __init__(self, trained: nn.Module, probe: nn.Module, temperature: float = 1.0, link: Link = "softmax") -> None:
        super().__init__()
        self.trained, self.probe, self.temperature = trained, probe, temperature
        self.link: Link = link

    def forward(self, batch: Batch) -> Tensor:
        """Outputs as of one model, # (examples, outputs)"""
        return average_outputs([model(batch).float() for model in (self.trained, self.probe)], self.link) / self.temperature


def average_outputs(outputs: Sequence[Tensor], link: Link) -> Tensor:
    """The outputs that say the mean of what two models say: of their probabilities, or of their numbers.

    Args:
        outputs: of two models, # each (examples, outputs)
        link: what makes of outputs what is said.
    """
    if link == "identity":
        return (outputs[0] + outputs[1]) / 2
    if link == "sigmoid":  # the log-odds of the mean; by softplus, which ONNX has and keeps finite where a sigmoid is 0
        has, lacks = (-softplus(sign * torch.stack(list(outputs))) for sign in (-1, 1))
        return has.logsumexp(0) - lacks.logsumexp(0)
    return torch.stack([each.log_softmax(-1) for each in outputs]).logsumexp(0) - torch.log(torch.tensor(2.0))


def divide_logits(model: TrainableModel, temperature: float) -> None:
    """Divide the outputs of a model for good, in the last linear layer of its head.

    Args:
        model: with a head for classes or labels; changed in place.
        temperature: above 0.
    """
    if temperature == 1.0:
        return
    with torch.no_grad():
        for parameter in last_layer(model).parameters():
            parameter.copy_(parameter.float() / temperature)


def last_layer(model: TrainableModel) -> nn.Linear:
    """The last linear layer of a classifier's head: what it says are the logits."""
    network: Any = model.network  # of transformers, which has no type
    last = network.score if getattr(model, "causal", False) else network.classifier
    return getattr(last, "out_proj", last)
