"""What a network keeps beside its parameters is what its state dict holds of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luthier.core.errors import RunError
from luthier.models.buffers import Buffers, keep_buffers
from luthier.models.pretrained import load_classifier, load_generator
from luthier.optim import OPTIMIZERS
from luthier.optim.masters import Masters
from tests.conftest import SIZES


@pytest.mark.parametrize("family", sorted(SIZES))
def test_no_base_of_text_has_any_so_that_its_checkpoints_stay_as_they_are(bases, family: str) -> None:
    base = bases(family)
    model = load_classifier(base, ["a", "b"], "cls", 0.1, seed=0) if base.kind == "encoder" else load_generator(base, 0.1)
    assert not Buffers(model.network).copy()


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False))
    made.register_buffer("kept", torch.arange(3))
    made.register_buffer("positions", torch.arange(5), persistent=False)
    return made


def test_the_buffers_are_those_of_the_state_dict() -> None:
    made = network()
    parameters = {name for name, _ in made.named_parameters()}
    assert set(Buffers(made).copy()) == set(made.state_dict()) - parameters
    assert "positions" not in Buffers(made).copy()


def test_what_was_copied_comes_back_whatever_went_through_meanwhile() -> None:
    made = network()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    buffers = Buffers(made)
    kept = buffers.copy()
    made(torch.randn(8, 3))
    assert not torch.equal(made.state_dict()["1.running_mean"], before["1.running_mean"])
    buffers.restore(kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    with keep_buffers(made):
        made(torch.randn(8, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_a_buffer_that_was_replaced_by_one_of_another_size_comes_back() -> None:
    made = network()
    buffers = Buffers(made)
    kept = buffers.copy()
    made.kept = torch.arange(7)
    buffers.restore(kept)
    assert torch.equal(made.state_dict()["kept"], torch.arange(3))


def test_a_buffer_of_which_nothing_was_kept_is_named_with_the_remedy() -> None:
    made = network()
    kept = Buffers(made).copy()
    del kept["1.running_var"]
    with pytest.raises(RunError, match=r"nothing was kept of 1\.running_var[\s\S]*start again"):
        Buffers(made).restore(kept)


def test_weights_and_buffers_together_restore_a_network() -> None:
    def masters(made: nn.Module) -> Masters:
        names = {name for name, _ in made.named_parameters()}
        return Masters(made, OPTIMIZERS["sgd"](lr=0.1), torch.float32, names, lambda name: 1.0)

    first, second = network(), network()
    one, two = masters(first), masters(second)
    with one.collecting():
        first(torch.randn(8, 3)).square().sum().backward()
    one.step(8.0, 1.0)
    two.restore(one.weights() | one.buffers(), one.state())
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
