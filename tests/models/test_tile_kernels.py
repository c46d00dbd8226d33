"""Attention and turned matrices on matrix tiles: softmax's own, for rows of any length and rows that share a prefix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from luthier.adaptation import ADAPTATIONS
from luthier.models import shared_library
from luthier.models.decoder_kernels import Heads
from luthier.models.packing import RowPlaces
from luthier.models.pretrained import load_generator
from luthier.models.tile_kernels import TileHeads, TileKernels
from tests.models.test_decoder_kernels import SHAPES, attention, by_softmax
from tests.models.test_fused import LENGTHS, gradients, move
from tests.models.test_kernels import draw
from tests.models.test_packed import batch_of

pytestmark = [
    pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this processor has no matrix tiles"),
    pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler"),
    pytest.mark.usefixtures("compiling"),
]
LONG = [((300, 700), 2, 1, 64), ((31, 32, 33), 9, 3, 64), ((1, 2), 3, 3, 80)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def whole_rows(of: Heads) -> TileHeads:
    """Rows that lie in the stream one behind the other, three tokens of padding at its end."""
    tokens = int(of.starts[-1])
    rows = RowPlaces(of.starts, torch.zeros(len(of.starts) - 1, dtype=torch.long), torch.arange(tokens), tokens + 3, 3)
    return TileHeads(of.starts, of.cos, of.sin, of.heads, of.key_heads, of.width, of.scale, rows)


@pytest.mark.parametrize(("lengths", "heads", "key_heads", "width"), [*SHAPES, *LONG])
def test_attention_and_its_gradient_are_those_of_softmax(lengths: tuple[int, ...], heads: int, key_heads: int, width: int) -> None:
    projected, of, d_said = attention(lengths, heads, key_heads, width)
    precise = projected.float().requires_grad_()
    expected = by_softmax(precise, of)
    expected.backward(d_said[: sum(lengths)].float())
    expected = expected.detach()
    kernels, plan = TileKernels(), whole_rows(of)
    said, total = kernels.attention(projected, plan)
    gradient = kernels.attention_gradient(projected, plan, said, total, d_said)
    assert precise.grad is not None
    assert float((said[:-3].float() - expected).norm()) < 6e-3 * float(expected.norm())
    assert float((gradient.float() - precise.grad).norm()) < 6e-3 * float(precise.grad.norm())
    assert not said[-3:].any()
    assert not gradient[-3:].any()


def test_rows_that_share_a_prefix_say_what_each_says_by_itself_and_their_gradients_add_up() -> None:
    lengths, common, heads, width = (70, 50, 95), 40, 4, 32
    projected, of, d_said = attention((common + 30 + 10 + 55,), heads, 2, width)
    firsts = [common, common + 30, common + 40]
    suffixes = [30, 10, 55]
    places = torch.cat(
        [torch.cat([torch.arange(common), torch.arange(first, first + own)]) for first, own in zip(firsts, suffixes, strict=True)]
    )
    starts = torch.tensor([0, *lengths]).cumsum(0)
    rows = RowPlaces(starts, torch.tensor([0, common, common]), places, len(projected), 3)
    plan = TileHeads(starts, of.cos, of.sin, heads, 2, width, of.scale, rows)
    precise = projected.float().requires_grad_()
    laid = Heads(starts, of.cos[places], of.sin[places], heads, 2, width, of.scale)
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


@pytest.mark.usefixtures("threads")
def test_attention_has_the_same_bits_on_any_number_of_threads_and_whatever_rows_went_before() -> None:
    projected, of, d_said = attention(*SHAPES[1])
    found: list[tuple[Tensor, ...]] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        kernels, plan = TileKernels(), whole_rows(of)
        said, total = kernels.attention(projected, plan)
        found.append((said, total[:-3], kernels.attention_gradient(projected, plan, said, total, d_said)))
        other, others, d_other = attention(*LONG[0])
        broken = torch.full_like(other, torch.nan)
        kernels.attention_gradient(broken, whole_rows(others), *kernels.attention(broken, whole_rows(others)), d_other)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


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


@pytest.mark.parametrize("alike", [False, True], ids=["rows of their own", "rows that begin alike"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_loss_and_gradients_in_bf16_are_as_near_to_those_in_fp32_as_transformers(
    bases, family: str, lengths: tuple[int, ...], adaptation: str, alike: bool
) -> None:
    model = load_generator(bases(family), 0.0)
    ADAPTATIONS[adaptation]().attach(model)
    move(model)
    model.train()
    batch = batch_of(lengths, model.network.config.vocab_size)
    if alike:
        starts = batch.lengths.cumsum(0) - batch.lengths
        shared = min(12, min(lengths) - 1)
        for start in starts[1:].tolist():
            batch.flat["tokens"][start : start + shared] = batch.flat["tokens"][:shared]
    loss, precise = gradients(model, batch)
    model.network.bfloat16()
    _, plain = gradients(model, batch)
    assert model.use(TileKernels()) is not None
    found_loss, found = gradients(model, batch)
    assert found_loss == pytest.approx(loss, rel=5e-3)
    assert found.keys() == plain.keys()

    def distance(others: dict[str, Tensor]) -> float:
        return sum(float((others[name].float() - each).norm() ** 2) for name, each in precise.items()) ** 0.5

    assert distance(found) < 1.5 * distance(plain)


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
