"""Each kernel against torch's own way, forward and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from luthier.models.kernels import plain


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_norm_is_llamas_and_so_are_its_gradients() -> None:
    own = LlamaRMSNorm(96, eps=1e-5)
    own.weight.data = draw(96)
    x, d_said = draw(13, 96).requires_grad_(), draw(12, 96)[:13].repeat(2, 1)[:13]
    expected = own(x)
    expected.backward(d_said)
    said, factor = plain.rms_norm(x.detach(), own.weight.detach(), torch.tensor(1e-5))
    assert near(said, expected)
    assert x.grad is not None
    assert own.weight.grad is not None
    assert near(plain.rms_norm_backward(d_said, x.detach(), own.weight.detach(), factor), x.grad)
    assert near(plain.rms_norm_weight_backward(d_said, x.detach(), factor), own.weight.grad)


def test_the_gated_unit_is_silu_times_the_rest_and_so_are_its_gradients() -> None:
    gate, up, d_said = draw(7, 40).requires_grad_(), draw(40, 7).t().contiguous().requires_grad_(), draw(8, 40)[:7]
    expected = nn.functional.silu(gate) * up
    expected.backward(d_said)
    said, d_gate, d_up = plain.swiglu_backward(gate.detach(), up.detach(), d_said)
    assert near(said, expected)
    assert near(plain.swiglu(gate.detach(), up.detach()), expected)
    assert gate.grad is not None
    assert up.grad is not None
    assert near(d_gate, gate.grad)
    assert near(d_up, up.grad)


def test_the_rotation_is_llamas_and_the_other_way_undoes_it() -> None:
    x, angle, one = draw(11, 3, 64), draw(11, 32).repeat(1, 2), torch.tensor(1.0)
    cos, sin = angle.cos(), angle.sin()
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos[None], sin[None])
    turned = plain.rotary(x, cos, sin, one)
    assert near(turned, expected[0].transpose(0, 1))
    assert near(plain.rotary(turned, cos, -sin, one), x)
    assert near(plain.rotary(x, cos, sin, torch.tensor(0.25)), turned / 4)


def test_attentions_way_back_is_that_of_softmax() -> None:
    score, d_share = draw(9, 9).requires_grad_(), draw(9, 10)[:, :9]
    first, last = torch.arange(9.0).sub(4).clamp(min=0), torch.arange(9.0)
    place = torch.arange(9.0)
    hidden = (place < first[:, None]) | (place > last[:, None])
    share = score.masked_fill(hidden, -torch.inf).softmax(-1)
    share.backward(d_share)
    total = score.masked_fill(hidden, -torch.inf).logsumexp(-1)
    said, d_score = plain.attention_backward(score.detach(), d_share, total.detach(), (share * d_share).sum(-1).detach(), first, last)
    assert score.grad is not None
    assert near(said, share)
    assert near(d_score, score.grad)


def test_cross_entropy_leaves_its_gradient_where_the_logits_were() -> None:
    logits, target = draw(6, 50).mul(8).requires_grad_(), torch.tensor([0, 49, 7, 7, 3, 20])
    expected = nn.functional.cross_entropy(logits, target, reduction="none")
    expected.sum().backward()
    room = logits.detach().clone()
    assert near(plain.cross_entropy_(room, target), expected)
    assert logits.grad is not None
    assert near(room, logits.grad)


def test_the_optimizers_pass_is_torchs_adamw() -> None:
    weight = nn.Parameter(draw(300))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.03)
    own, mean, square, rounded = weight.detach().clone(), torch.zeros(300), torch.zeros(300), torch.zeros(300, dtype=torch.bfloat16)
    for step in range(1, 6):
        gradient = draw(300 + step)[:300].bfloat16()
        weight.grad = gradient.float() * 0.5
        optimizer.step()
        numbers = [0.5, 1 - 0.1 * 0.03, 0.9, 1 - 0.9, 0.99, 1 - 0.99, 0.1 / (1 - 0.9**step), (1 - 0.99**step) ** 0.5, 1e-6]
        plain.adamw_(own, mean, square, rounded, gradient, torch.tensor(numbers))
    assert near(own, weight.detach())
    assert torch.equal(rounded, own.bfloat16())
    assert float(plain.square_sum(own)) == pytest.approx(float(own.square().sum()), rel=1e-5)


def _values(shape: list[int], letter: str) -> Tensor:
    if letter == "i":
        return torch.arange(shape[0]) % 7
    values = draw(*shape) if shape else torch.tensor(0.5)
    return values.bfloat16() if letter == "b" else values.abs() + 0.1


def _several(said: Any) -> list[Tensor]:
    return [] if said is None else [said] if isinstance(said, Tensor) else list(said)
