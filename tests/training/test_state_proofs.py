"""The proofs about state and randomness, on a network with batch norm: a step that depends on its split, and a draw without a key, are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from luthier.training.proofs.context import ProofInputs
from luthier.training.proofs.losses import accumulated_is_whole
from luthier.training.proofs.randomness import randomness_is_keyed
from luthier.training.steps import Work
from tests.training.convolution import Model, conv_work, is_same, state_of


def context(work: Work) -> ProofInputs:
    return ProofInputs(work, lambda record: [], work.train[:4], float("inf"))


def modes(work: Work) -> list[bool]:
    return [module.training for module in work.model.modules()]


@pytest.mark.parametrize("adaptation", [{"kind": "full"}, {"kind": "freeze", "depth": 2}, {"kind": "gradual"}])
def test_a_step_with_batch_statistics_depends_on_its_split_and_that_is_found(adaptation: dict[str, Any]) -> None:
    """Under gradual unfreezing the batch norm is frozen at first, and moves later."""
    work = conv_work(splits=True, adaptation=adaptation)
    before, modes_before = state_of(work), modes(work)
    proof = accumulated_is_whole(context(work))
    assert proof.held is False
    assert "a batch norm is in train mode" in proof.claim
    assert "splits = False" in proof.claim
    assert is_same(state_of(work), before)
    assert modes(work) == modes_before


def test_an_objective_that_says_so_is_believed_and_the_proof_tells_it() -> None:
    proof = accumulated_is_whole(context(conv_work(splits=False)))
    assert proof.held
    assert "goes through the model whole" in proof.claim


@pytest.mark.parametrize("adaptation", [{"kind": "freeze", "depth": 3}, {"kind": "freeze"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_batch_norm_lets_a_step_be_split(adaptation: dict[str, Any], dtype: str) -> None:
    work = conv_work(splits=True, dropout=0.5, adaptation=adaptation, training__dtype=dtype)
    proof = accumulated_is_whole(context(work))
    assert proof.held, proof.claim


class RowNorm(Model):
    """A batch norm of vectors, which cannot take one row alone."""

    def __init__(self) -> None:
        super().__init__()
        self.network.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))  # type: ignore[assignment]


def test_a_network_that_cannot_take_one_row_alone_is_disproved_in_words() -> None:
    proof = accumulated_is_whole(context(conv_work(splits=True, model=RowNorm())))
    assert proof.held is False
    assert "splits = False" in proof.claim


class FunctionalDropout(nn.Module):
    """Cannot be seen in the list of modules."""

    def forward(self, values: Tensor) -> Tensor:
        return dropout(values, 0.2, self.training)


class Unused(nn.Module):
    """Asks the generator, and does nothing with the answer."""

    def forward(self, values: Tensor) -> Tensor:
        torch.rand(3)
        return values


def with_block(layer: nn.Module) -> Model:
    model = Model(0.3)
    model.network.blocks[1].append(layer)  # type: ignore[operator]
    return model


@pytest.mark.parametrize("adaptation", [{"kind": "full"}, {"kind": "gradual"}])
@pytest.mark.parametrize("layer", [FunctionalDropout(), Unused()])
def test_a_draw_without_a_key_is_found(layer: nn.Module, adaptation: dict[str, Any]) -> None:
    proof = randomness_is_keyed(context(conv_work(model=with_block(layer), adaptation=adaptation)))
    assert proof.held is False
    assert "not keyed" in proof.claim
    assert "nn.Dropout" in proof.claim


def test_keyed_dropout_passes_and_leaves_the_statistics_as_they_were() -> None:
    work = conv_work(dropout=0.5)
    before = state_of(work)
    assert randomness_is_keyed(context(work)).held
    assert is_same(state_of(work), before)


def test_a_frozen_block_may_hold_a_layer_that_draws_only_in_train_mode() -> None:
    work = conv_work(model=with_block(FunctionalDropout()), adaptation={"kind": "freeze", "depth": 2})
    assert randomness_is_keyed(context(work)).held
