"""A whole encoder block on matrix tiles: the numbers that transformers computes, with the same dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.adaptation import ADAPTATIONS
from luthier.models.dropout import RowDropout, dropout_scale
from luthier.models.kernels import encoder_block, shared_library
from luthier.models.kernels.tile_kernels import TileKernels
from luthier.models.pretrained import load_classifier
from tests.models.kernels.test_decoder_kernels import TILES, threads  # noqa: F401  # a fixture
from tests.models.kernels.test_fused import distance, move
from tests.models.kernels.test_plain import draw
from tests.models.test_packed import batch_of

pytestmark = [
    TILES,
    pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler"),
    pytest.mark.usefixtures("compiling"),
]
FAMILIES = ("bert", "roberta", "camembert", "electra")
LENGTHS = {"short": (5, 17, 9, 9, 30, 2), "long": (100, 33, 64)}


def gradients(model: Any, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    """Of a number that all that a network says has a part in."""
    model.zero_grad(set_to_none=True)
    batch = batch_of(lengths, model.network.config.vocab_size)
    with model.dropout_keys.set_keys(1, 2, batch.index, batch.lengths):
        states = model.hidden_states(batch).float()
    (states * torch.arange(states.numel()).view(states.shape).sin()).sum().backward()
    return {name: each.grad.float() for name, each in model.network.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_bf16_are_as_near_to_those_in_fp32_as_transformers(
    bases, family: str, adaptation: str, dropout: float, lengths: tuple[int, ...]
) -> None:
    model = load_classifier(bases(family), ["a", "b"], "mean", dropout, seed=0)
    ADAPTATIONS[adaptation]().attach(model)
    move(model)
    model.train()
    precise = gradients(model, lengths)
    model.network.bfloat16()
    plain = gradients(model, lengths)
    assert model.use(TileKernels()) is not None
    found = gradients(model, lengths)
    assert found.keys() == plain.keys()
    assert distance(found, precise) < 1.5 * distance(plain, precise)


def test_blocks_go_this_way_while_they_train_in_bf16_and_at_no_other_time(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.1, seed=0)
    model.use(TileKernels())
    went: list[int] = []
    own = TileKernels.gelu
    monkeypatch.setattr(TileKernels, "gelu", lambda self, x: went.append(1) or own(self, x))
    gradients(model.train(), (5, 9))
    assert not went
    model.network.bfloat16()
    model.eval().hidden_states(batch_of((5, 9), model.network.config.vocab_size))
    assert not went
    gradients(model.train(), (5, 9))
    assert len(went) == len(model.blocks)


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.2, seed=0)
    model.network.bfloat16()
    model.use(TileKernels())
    model.train()
    found: list[dict[str, Tensor]] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        kernels = TileKernels()
        x, rest, weight = draw(70, 99).bfloat16(), draw(71, 99)[1:].bfloat16(), draw(99).bfloat16()
        drops = RowDropout(torch.arange(70, dtype=torch.int32), 99, 0.3)
        total, said, factors = kernels.add_norm(x, rest, drops, weight, weight, 1e-12)
        d_x, d_rest = kernels.add_norm_backward(said, total, factors, drops, weight)
        own = [
            *kernels.norm_weights_backward(said, total, factors),
            *kernels.gelu_backward(x, rest),
            kernels.column_sums(x),
            total,
            said,
            d_x,
            d_rest,
        ]
        found.append(dict(enumerate(own)))  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("drops", [False, True])
def test_sum_and_norm_are_torchs_and_so_are_their_gradients(drops: bool) -> None:
    x, rest, weight, bias = draw(37, 101).bfloat16(), draw(38, 101)[1:].bfloat16(), draw(101).bfloat16(), draw(102)[1:].bfloat16()
    keys = torch.arange(37, dtype=torch.int32) * 7919
    mask = dropout_scale(keys, 101, 0.3, torch.bfloat16).float() if drops else torch.ones(37, 101)
    given = RowDropout(keys, 101, 0.3) if drops else None
    kernels = TileKernels()
    total, said, factors = kernels.add_norm(x, rest, given, weight, bias, 1e-5)
    precise = [each.float().requires_grad_() for each in (x, rest, weight, bias)]
    expected = nn.functional.layer_norm(precise[0] * mask + precise[1], (101,), precise[2], precise[3], 1e-5)
    assert float((said.float() - expected.detach()).norm()) < 5e-3 * float(expected.detach().norm())
    d_said = draw(39, 101)[2:].bfloat16()
    expected.backward(d_said.float())
    found = [*kernels.add_norm_backward(d_said, total, factors, given, weight), *kernels.norm_weights_backward(d_said, total, factors)]
    for own, leaf in zip(found, precise, strict=True):
        assert leaf.grad is not None
        assert float((own.float() - leaf.grad).norm()) < 1e-2 * float(leaf.grad.norm())


def test_gelu_is_torchs_and_so_is_its_gradient() -> None:
    x = torch.linspace(-9, 9, 4001).view(1, -1).bfloat16()
    d_said = draw(1, 4001).bfloat16()
    precise = x.float().requires_grad_()
    expected = nn.functional.gelu(precise)
    expected.backward(d_said.float())
    said, d_x = TileKernels().gelu_backward(x, d_said)
    assert torch.equal(said, TileKernels().gelu(x))
    assert precise.grad is not None
    assert torch.allclose(said.float(), expected.detach(), rtol=4e-3, atol=1e-6)
    assert torch.allclose(d_x.float(), precise.grad, rtol=4e-3, atol=1e-6)


def test_what_is_no_number_stays_none() -> None:
    broken = draw(2, 40).bfloat16()
    broken[1, 7] = torch.nan
    kernels = TileKernels()
    assert kernels.gelu(broken).isnan().sum() == 1
    _, said, _ = kernels.add_norm(broken, broken, None, broken[0], broken[0], 1e-5)
    assert said.isnan().all(1).tolist() == [False, True]


def test_a_wrong_mask_on_the_way_back_is_noticed(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.2, seed=0)
    model.train()
    precise = gradients(model, LENGTHS["short"])
    model.network.bfloat16()
    plain = gradients(model, LENGTHS["short"])
    own = TileKernels.add_norm_backward
    monkeypatch.setattr(TileKernels, "add_norm_backward", lambda self, a, b, c, drops, weight: own(self, a, b, c, None, weight))
    model.use(TileKernels())
    assert distance(gradients(model, LENGTHS["short"]), precise) > 3 * distance(plain, precise)


def test_another_activation_is_not_known(bases) -> None:
    block: Any = load_classifier(bases("bert"), ["a", "b"], "mean", 0.0, seed=0).blocks[0]
    assert encoder_block.open_encoder_block(block) is not None
    for other in (nn.ReLU(), nn.GELU("tanh")):
        block.intermediate.intermediate_act_fn = other
        assert encoder_block.open_encoder_block(block) is None


@pytest.mark.parametrize("part", ["attention", "attention.self.query", "output.LayerNorm"])
def test_where_somebody_listens_to_a_part_the_block_goes_its_own_way(bases, part: str) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.1, seed=0)
    model.network.bfloat16()
    model.use(TileKernels())
    heard: list[int] = []
    handle = model.blocks[1].get_submodule(part).register_forward_hook(lambda *_: heard.append(1))
    gradients(model.train(), (5, 9))
    handle.remove()
    gradients(model, (5, 9))
    assert heard == [1]


def test_states_that_lie_the_other_way_are_read_as_they_are_meant(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.0, seed=0)
    model.network.bfloat16()
    model.use(TileKernels())
    expected = gradients(model.train(), (5, 9))
    model.blocks[0].register_forward_pre_hook(lambda _, given: (given[0].transpose(1, 2).contiguous().transpose(1, 2), *given[1:]))
    found = gradients(model, (5, 9))
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_parts_in_eval_mode_drop_nothing(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.3, seed=0)
    model.network.bfloat16()
    model.use(TileKernels())
    dropped = gradients(model.train(), (5, 9))
    for block in model.blocks:
        for part in block.children():
            part.eval()
    still = gradients(model, (5, 9))
    whole = load_classifier(bases("bert"), ["a", "b"], "mean", 0.3, seed=0).eval()
    precise = gradients(whole, (5, 9))
    name = "bert.encoder.layer.2.output.dense.weight"
    assert float((still[name] - dropped[name]).norm()) > 0.1 * float(precise[name].norm())
