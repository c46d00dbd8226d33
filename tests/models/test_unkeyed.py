"""A layer whose random numbers cannot be keyed is refused by name, one that draws nothing is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.convnext.modeling_convnext import ConvNextDropPath
from transformers.models.swin.modeling_swin import SwinDropPath

from luthier.core.errors import ModelError
from luthier.models.dropout import Dropout, attach


class StochasticDepth(nn.Module):
    """As torchvision's."""

    def __init__(self, p: float, mode: str = "row") -> None:
        super().__init__()
        self.p, self.mode = p, mode


class MyDropPathLayer(nn.Module):
    """Does not say how much it drops."""


REFUSED: dict[str, nn.Module] = {
    "Dropout1d": nn.Dropout1d(0.1),
    "Dropout2d": nn.Dropout2d(0.1),
    "Dropout3d": nn.Dropout3d(0.1),
    "AlphaDropout": nn.AlphaDropout(0.1),
    "FeatureAlphaDropout": nn.FeatureAlphaDropout(0.1),
    "RReLU": nn.RReLU(),
    "FractionalMaxPool2d": nn.FractionalMaxPool2d(2, output_ratio=0.5),
    "LSTM": nn.LSTM(4, 4, num_layers=2, dropout=0.1),
    "MultiheadAttention": nn.MultiheadAttention(4, 2, dropout=0.1),
    "ConvNextDropPath": ConvNextDropPath(0.1),
    "SwinDropPath": SwinDropPath(0.1),
    "StochasticDepth": StochasticDepth(0.1),
    "MyDropPathLayer": MyDropPathLayer(),
}

ALLOWED: dict[str, nn.Module] = {
    "Dropout": nn.Dropout(0.1),
    "Dropout2d that drops nothing": nn.Dropout2d(0.0),
    "AlphaDropout that drops nothing": nn.AlphaDropout(0.0),
    "RReLU with one slope": nn.RReLU(0.2, 0.2),
    "LSTM": nn.LSTM(4, 4, num_layers=2),
    "MultiheadAttention": nn.MultiheadAttention(4, 2),
    "ConvNextDropPath that drops nothing": ConvNextDropPath(0.0),
    "SwinDropPath without a rate": SwinDropPath(None),
    "BatchNorm": nn.BatchNorm2d(3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_draws_without_a_key_is_refused_by_name_with_the_remedy(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"odd": REFUSED[name]}))
    with pytest.raises(ModelError, match=rf"1\.odd \({name}\)[\s\S]*nn\.Dropout"):
        attach(model, 0.1)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_layer_that_draws_nothing_or_can_be_keyed_is_taken(name: str) -> None:
    attach(nn.Sequential(nn.Linear(4, 4), ALLOWED[name]), 0.1)


def test_of_many_refused_layers_the_first_are_named_and_the_others_counted() -> None:
    with pytest.raises(ModelError, match=r"0 \(Dropout2d\), 1 \(Dropout2d\), 2 \(Dropout2d\) and 7 more"):
        attach(nn.Sequential(*(nn.Dropout2d(0.1) for _ in range(10))), 0.1)


def test_what_replaces_dropout_is_ours_at_every_depth() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.5))
    attach(model, 0.2)
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [module.p for module in found] == [0.2, 0.2]
    assert not torch.equal(torch.tensor(found[0].site), torch.tensor(found[1].site))
