"""Gradients that wait in bf16 and the optimizer's one pass move the weights as fp32 gradients and torch's optimizer do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.models.kernels.compiled import Plain
from luthier.optim import OPTIMIZERS
from luthier.optim.masters import Masters


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer, self.still = nn.Linear(12, 20), nn.Linear(20, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu())


def masters(kernels: Any, kind: str = "adamw", **more: Any) -> tuple[Net, Masters]:
    network = Net()
    movable = {name for name, _ in network.named_parameters()}
    spec = OPTIMIZERS[kind](lr=0.01, clip=0.5, **more)
    return network, Masters(network, spec, torch.bfloat16, movable, lambda name: 2.0 if "outer" in name else 1.0, kernels=kernels)


def step(network: Net, masters: Masters, number: int, pieces: int) -> float:
    rows = torch.randn(8, 12, generator=torch.Generator().manual_seed(number)).bfloat16()
    for piece in rows.chunk(pieces):
        loss = network(piece).float().square().sum()
        with masters.collecting():
            loss.backward()
    return masters.step(8.0, 0.9)


@pytest.mark.parametrize("pieces", [1, 2, "either"])
def test_weights_moments_and_norms_are_those_of_torch(pieces: int | str) -> None:
    ours, theirs = masters(Plain(torch.bfloat16), weight_decay=0.1), masters(None, weight_decay=0.1)
    for number in range(5):
        count = pieces if isinstance(pieces, int) else 1 + number % 2
        assert step(*ours, number, count) == pytest.approx(step(*theirs, number, count), rel=1e-4)
        for name, parameter in theirs[0].named_parameters():  # the same bf16 weights, or the next gradients would be others
            ours[0].get_parameter(name).data.copy_(parameter)
    for one, other in ((ours[1].weights(), theirs[1].weights()), (ours[1].state(), theirs[1].state())):
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-6) for name in one)


def test_the_network_holds_the_weights_rounded() -> None:
    network, kept = masters(Plain(torch.bfloat16))
    step(network, kept, 0, 1)
    assert all(torch.equal(network.get_parameter(name), weight.bfloat16()) for name, weight in kept.weights().items())


def test_weights_that_get_no_gradient_stay_and_have_no_moments() -> None:
    network, kept = masters(Plain(torch.bfloat16), weight_decay=0.1)
    before = network.still.weight.clone()
    step(network, kept, 0, 1)
    assert torch.equal(network.still.weight, before)
    assert not any(name.startswith("still") for name in kept.state())


def test_a_step_that_is_forgotten_leaves_no_gradient_behind() -> None:
    (network, kept), (other, fresh) = masters(Plain(torch.bfloat16)), masters(Plain(torch.bfloat16))
    with kept.collecting():
        network(torch.ones(2, 12, dtype=torch.bfloat16)).float().sum().backward()
    kept.zero_grad()
    assert step(network, kept, 1, 1) == step(other, fresh, 1, 1)
    assert all(torch.equal(one, fresh.weights()[name]) for name, one in kept.weights().items())


def test_going_on_from_a_kept_state_gives_the_same_bits() -> None:
    network, kept = masters(Plain(torch.bfloat16))
    step(network, kept, 0, 1)
    weights, state = ({name: each.clone() for name, each in found.items()} for found in (kept.weights(), kept.state()))
    step(network, kept, 1, 1)
    again, resumed = masters(Plain(torch.bfloat16))
    resumed.restore(weights, state)
    step(again, resumed, 1, 1)
    assert all(torch.equal(one, resumed.weights()[name]) for name, one in kept.weights().items())


def test_another_optimizer_than_adamw_takes_its_own_step() -> None:
    network, kept = masters(Plain(torch.bfloat16), "sgd")
    other, plain = masters(None, "sgd")
    assert step(network, kept, 0, 1) == step(other, plain, 0, 1)
    assert all(torch.equal(one, plain.weights()[name]) for name, one in kept.weights().items())
