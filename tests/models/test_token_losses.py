"""Losses of single tokens against torch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from luthier.models.token_losses import token_losses


@pytest.mark.parametrize("weight_moves", [False, True])
def test_losses_and_their_gradients_are_those_of_cross_entropy_whatever_is_made_of_them(weight_moves: bool) -> None:
    torch.manual_seed(0)
    said, weight, target = torch.randn(37, 8), torch.randn(50, 8), torch.randint(50, (37,))
    factors = torch.randn(37)
    gradients = []
    for function in (
        lambda one, two: token_losses(one, two, target, chunk=10),
        lambda one, two: cross_entropy(one @ two.t(), target, reduction="none"),
    ):
        one, two = said.clone().requires_grad_(), weight.clone().requires_grad_(weight_moves)
        losses = function(one, two)
        (torch.tanh(losses) * factors).sum().backward()
        gradients.append((losses.detach(), one.grad, two.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_kept() -> None:
    said, weight = torch.randn(5, 8, requires_grad=True), torch.randn(50, 8)
    with torch.no_grad():
        assert not token_losses(said, weight, torch.arange(5)).requires_grad
