"""What matrix tiles add to the compiled code of a decoder: attention of rows that share a prefix, transposes, whole blocks for rows of any length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from luthier.models.kernels import shared_library
from luthier.models.kernels.tile_kernels import TileKernels
from luthier.models.packing import RowPlaces
from luthier.models.pretrained import load_generator
from tests.models.kernels.test_decoder_kernels import TILES, attention, by_softmax
from tests.models.kernels.test_fused import LENGTHS, gradients
from tests.models.kernels.test_plain import draw
from tests.models.test_packed import batch_of

pytestmark = [
    TILES,
    pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler"),
    pytest.mark.usefixtures("compiling"),
]


def test_rows_that_share_a_prefix_say_what_each_says_by_itself_and_their_gradients_add_up() -> None:
    lengths, common, heads, width = (70, 50, 95), 40, 4, 32
    projected, of, d_said = attention((common + 30 + 10 + 55,), heads, 2, width)
    firsts = [common, common + 30, common + 40]
    suffixes = [30, 10, 55]
    places = torch.cat(
        [torch.cat([torch.arange(common), torch.arange(first, first + own)]) for first, own in zip(firsts, suffixes, strict=True)]
    )
    starts = torch.tensor([0, *lengths]).cumsum(0)
    assert of.cos is not None
    assert of.sin is not None
    plan = replace(of, rows=RowPlaces(starts, torch.tensor([0, common, common]), places, len(projected), 3))
    precise = projected.float().requires_grad_()
    laid = replace(plan, cos=of.cos[places], sin=of.sin[places])
    each = by_softmax(precise[places], laid)
    asked = torch.cat([torch.arange(70), starts[1] + common + torch.arange(10), starts[2] + common + torch.arange(55)])
    expected = torch.zeros(len(projected), heads * width).index_copy(0, places[asked], each[asked])
    expected.backward(d_said.float())
    kernels = TileKernels()
    said, total = kernels.attention(projected, plan)
    gradient = kernels.attention_gradient(projected, plan, said, total, d_said)
    assert precise.grad is not None
    assert float((said.float() - expected.detach()).norm()) < 6e-3 * float(expected.detach().norm())
    assert float((gradient.float() - precise.grad).norm()) < 6e-3 * float(precise.grad.norm())


@pytest.mark.parametrize("shape", [(77, 130), (1, 1), (64, 32), (33, 576), (100, 31)])
def test_a_turned_matrix_is_torchs(shape: tuple[int, int]) -> None:
    values = draw(shape[0], shape[1] + 7).bfloat16()
    kernels = TileKernels()
    assert torch.equal(kernels.transpose(values), values.t())
    part = values[:, 3 : 3 + shape[1]]
    assert torch.equal(kernels.transpose(part), part.t())


@pytest.mark.parametrize(("out", "width"), [(24, 96), (96, 24)])
def test_the_gradient_of_weights_is_the_product_whichever_side_is_turned(out: int, width: int) -> None:
    d_said, x = draw(90, out).bfloat16(), draw(91, width)[1:].bfloat16()
    expected = d_said.float().t() @ x.float()
    assert float((TileKernels().weight_gradient(d_said, x).float() - expected).norm()) < 5e-3 * float(expected.norm())


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_rows_of_any_length_go_through_whole_blocks(bases, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]) -> None:
    model = load_generator(bases("llama"), 0.0)
    model.network.bfloat16()
    model.use(TileKernels())
    went: list[int] = []
    own = TileKernels.attention
    monkeypatch.setattr(TileKernels, "attention", lambda self, given, heads: went.append(1) or own(self, given, heads))
    gradients(model.train(), batch_of(lengths, model.network.config.vocab_size))
    assert len(went) == len(model.blocks)


def test_a_wrong_gradient_of_attention_is_noticed(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases("llama"), 0.0)
    model.train()
    batch = batch_of(LENGTHS["short"], model.network.config.vocab_size)
    _, precise = gradients(model, batch)
    model.network.bfloat16()
    _, plain = gradients(model, batch)
    own = TileKernels.attention_gradient
    monkeypatch.setattr(TileKernels, "attention_gradient", lambda self, given, *more: own(self, given, *more) * 1.05)
    model.use(TileKernels())
    _, found = gradients(model, batch)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert float((found[name] - precise[name]).norm()) > 1.5 * float((plain[name] - precise[name]).norm())
