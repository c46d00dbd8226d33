"""A decoder in fused passes is the decoder that transformers computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from luthier.adaptation import ADAPTATIONS
from luthier.core.types import Batch
from luthier.models.kernels.compiled import Plain
from luthier.models.next_token import next_token_loss
from luthier.models.pretrained import load_generator
from tests.models.test_packed import batch_of

FUSED = ("llama", "qwen2", "qwen3", "mistral")
LENGTHS = {"short": (5, 17, 9, 9, 30, 2), "longer than a block": (300, 280, 40)}


def gradients(model: Any, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    hidden = model.hidden_states(batch)
    loss, _ = next_token_loss(hidden, model.network.lm_head.weight, batch.flat["tokens"].roll(-1), 64, model.kernels)
    loss.backward()
    return float(loss.detach()), {name: each.grad.to_dense() for name, each in model.network.named_parameters() if each.grad is not None}


def move(model: Any) -> None:
    """Adapters whose second factor is zero would hide mistakes of the first."""
    for name, parameter in model.network.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.1)


def begin_alike(batch: Batch) -> None:
    """Let the rows of a batch begin with the same tokens."""
    starts = batch.lengths.cumsum(0) - batch.lengths
    shared = min(12, int(batch.lengths.min()) - 1)
    for start in starts[1:].tolist():
        batch.flat["tokens"][start : start + shared] = batch.flat["tokens"][:shared]


def distance(found: dict[str, torch.Tensor], precise: dict[str, torch.Tensor]) -> float:
    """How far gradients lie from precise ones, all together."""
    return sum(float((found[name].float() - each).norm() ** 2) for name, each in precise.items()) ** 0.5


@pytest.mark.parametrize("alike", [False, True], ids=["rows of their own", "rows that begin alike"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("family", FUSED)
def test_loss_and_gradients_in_fp32_are_those_of_transformers(
    bases, family: str, adaptation: str, lengths: tuple[int, ...], alike: bool
) -> None:
    model = load_generator(bases(family), 0.0)
    ADAPTATIONS[adaptation]().attach(model)
    move(model)
    model.train()
    batch = batch_of(lengths, model.network.config.vocab_size)
    if alike:
        begin_alike(batch)
    loss, expected = gradients(model, batch)
    assert model.use(Plain(torch.float32)) is not None
    fused_loss, found = gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-6, name


def test_with_dropout_the_attention_is_transformers(bases) -> None:
    model = load_generator(bases("llama"), 0.3)
    model.train()
    batch = batch_of(LENGTHS["short"], model.network.config.vocab_size)
    with model.dropout_keys.set_keys(1, 2, batch.index, batch.lengths):
        loss, expected = gradients(model, batch)
        model.use(Plain(torch.float32))
        fused_loss, found = gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-6, name


def test_evaluations_and_other_numbers_go_transformers_way_to_the_bit(bases) -> None:
    model = load_generator(bases("llama"), 0.0)
    batch = batch_of(LENGTHS["short"], model.network.config.vocab_size)
    before = model.eval().hidden_states(batch), gradients(model.train(), batch)
    model.use(Plain(torch.bfloat16))
    assert torch.equal(model.eval().hidden_states(batch), before[0])
    loss, found = gradients(model.train(), batch)
    assert loss == before[1][0]
    assert all(torch.equal(found[name], gradient) for name, gradient in before[1][1].items())


def test_a_network_without_known_parts_is_left_as_it_is(bases) -> None:
    model = load_generator(bases("gemma3_text"), 0.0)
    assert model.use(Plain(torch.float32)) is None
    assert model.kernels is None


def test_a_wrong_norm_is_noticed(bases) -> None:
    class Wrong(Plain):
        def __getattr__(self, name: str) -> Any:
            own = super().__getattr__(name)
            return own if name != "rms_norm_backward" else lambda *given: own(*given) * 1.02

    model = load_generator(bases("llama"), 0.0)
    model.train()
    batch = batch_of(LENGTHS["short"], model.network.config.vocab_size)
    _, expected = gradients(model, batch)
    model.use(Wrong(torch.float32))
    _, found = gradients(model, batch)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()))


def test_a_decoder_with_another_activation_keeps_it(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases("llama"), 0.0)
    for block in model.blocks:
        feed: Any = block.mlp
        feed.act_fn, feed.config.hidden_act = nn.GELU(), "gelu"
    batch = batch_of(LENGTHS["short"], model.network.config.vocab_size)
    own = nn.GELU.forward
    model.network.bfloat16()
    _, expected = gradients(model.train(), batch)
    went: list[int] = []
    monkeypatch.setattr(nn.GELU, "forward", lambda self, x: went.append(1) or own(self, x))
    model.use(Plain(torch.bfloat16))
    _, found = gradients(model, batch)
    assert len(went) == len(model.blocks)
    assert found.keys() == expected.keys()
