"""The compiled code of a decoder: what the plain functions say, attention that is softmax's, and a block that is transformers' own."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.adaptation import ADAPTATIONS
from luthier.models.kernels import decoder_kernels, fused_block, plain, shared_library
from luthier.models.kernels.compiled import Plain
from luthier.models.kernels.decoder_kernels import DecoderKernels, Heads
from luthier.models.kernels.plain import KERNELS
from luthier.models.kernels.tile_kernels import TileKernels
from luthier.models.packing import RowPlaces
from luthier.models.pretrained import load_generator
from tests.models.kernels.test_fused import LENGTHS, begin_alike, distance, gradients, move
from tests.models.kernels.test_plain import _several, _values, draw
from tests.models.test_packed import batch_of

pytestmark = [pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler"), pytest.mark.usefixtures("compiling")]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def given(name: str, width: int) -> list[Tensor]:
    lengths = {"tokens": 37, "width": width, "asking": 45, "length": 71, "heads": 5, "vocabulary": width + 2, "numbers": 20_001}
    kernel = KERNELS[name]
    shapes = [[lengths[axis] if isinstance(axis, str) else axis for axis in shape] for shape in kernel.shapes]
    return [_values(shape, letter) for shape, letter in zip(shapes, kernel.types, strict=True)]


@pytest.mark.parametrize("width", [96, 99], ids=["whole registers", "a rest"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_compiled_kernel_says_what_the_plain_function_says(name: str, width: int) -> None:
    arguments = given(name, width)
    others = [tensor.clone() for tensor in arguments]
    expected, found = _several(KERNELS[name].function(*arguments)), _several(getattr(DecoderKernels(), name)(*others))
    for one, other in zip([*expected, *arguments], [*found, *others], strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one.float(), other.float(), rtol=8e-3, atol=1e-3 * float(one.float().abs().max()) + 1e-6), name


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", KERNELS)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    found: list[list[Tensor]] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        arguments = given(name, 99)
        found.append([*_several(getattr(DecoderKernels(), name)(*arguments)), *arguments])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def whole_rows(lengths: tuple[int, ...]) -> RowPlaces:
    """Rows that lie in the stream one behind the other, three tokens of padding at its end."""
    tokens = sum(lengths)
    return RowPlaces(
        torch.tensor([0, *lengths]).cumsum(0), torch.zeros(len(lengths), dtype=torch.long), torch.arange(tokens), tokens + 3, 3
    )


def attention(lengths: tuple[int, ...], heads: int, key_heads: int, width: int) -> tuple[Tensor, Heads, Tensor]:
    """Queries, keys and values, how they are attended to, and a gradient of what is said; three tokens of padding at the end."""
    tokens = sum(lengths) + 3
    angles = draw(tokens, width // 2).repeat(1, 2)
    of = Heads(whole_rows(lengths), heads, key_heads, width, width**-0.5, angles.cos().bfloat16(), angles.sin().bfloat16())
    return draw(tokens, (heads + 2 * key_heads) * width).bfloat16(), of, draw(tokens + 1, heads * width)[1:].bfloat16()


def by_softmax(projected: Tensor, of: Heads) -> Tensor:
    """The same from the definition, in fp32, # (tokens of rows, heads × width)"""
    assert of.cos is not None
    assert of.sin is not None
    starts = of.rows.starts.tolist()
    query, key, value = projected.float().split([each * of.width for each in (of.heads, of.key_heads, of.key_heads)], 1)
    query = plain.rotary(query.view(len(query), -1, of.width), of.cos, of.sin, torch.tensor(of.scale))
    key = plain.rotary(key.view(len(key), -1, of.width), of.cos, of.sin, torch.tensor(1.0))
    key, value = (each.view(len(query), -1, of.width).repeat_interleave(of.heads // of.key_heads, 1) for each in (key, value))
    said: list[Tensor] = []
    for start, end in pairwise(starts):
        score = torch.einsum("ihw,jhw->hij", query[start:end], key[start:end])
        share = score.masked_fill(torch.ones(end - start, end - start).triu(1).bool(), -torch.inf).softmax(-1)
        said.append(torch.einsum("hij,jhw->ihw", share, value[start:end]))
    return torch.cat(said).flatten(1)


TILES = pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this processor has no matrix tiles")
KINDS = [DecoderKernels, pytest.param(TileKernels, marks=TILES)]
SHAPES = [((64, 64, 64), 4, 4, 32), ((5, 17, 33, 1, 256), 6, 2, 24), ((9, 130), 3, 1, 10), ((40,), 2, 1, 128)]


LONG = [((300, 700), 2, 1, 64), ((31, 32, 33), 9, 3, 64), ((1, 2), 3, 3, 80)]
"""On tiles alone."""


@pytest.mark.parametrize(
    ("kind", "lengths", "heads", "key_heads", "width"),
    [*((DecoderKernels, *shape) for shape in SHAPES), *(pytest.param(TileKernels, *shape, marks=TILES) for shape in [*SHAPES, *LONG])],
)
def test_attention_and_its_gradient_are_those_of_softmax(
    kind: type[DecoderKernels], lengths: tuple[int, ...], heads: int, key_heads: int, width: int
) -> None:
    projected, of, d_said = attention(lengths, heads, key_heads, width)
    precise = projected.float().requires_grad_()
    expected = by_softmax(precise, of)
    expected.backward(d_said[: sum(lengths)].float())
    expected = expected.detach()
    said, total = kind().attention(projected, of)
    gradient = kind().attention_gradient(projected, of, said, total, d_said)
    assert precise.grad is not None
    assert float((said[:-3].float() - expected).norm()) < 6e-3 * float(expected.norm())
    assert float((gradient.float() - precise.grad).norm()) < 6e-3 * float(precise.grad.norm())
    assert not said[-3:].any()
    assert not gradient[-3:].any()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", KINDS)
def test_attention_has_the_same_bits_on_any_number_of_threads_and_whatever_rows_went_before(kind: type[DecoderKernels]) -> None:
    projected, of, d_said = attention(*SHAPES[1])
    found: list[tuple[Tensor, ...]] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        said, total = kind().attention(projected, of)
        found.append((said, total[:-3], kind().attention_gradient(projected, of, said, total, d_said)))
        other, others, d_other = attention(*SHAPES[0])
        broken = torch.full_like(other, torch.nan)
        kind().attention_gradient(broken, others, *kind().attention(broken, others), d_other)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_nan_stays_one_and_an_unknown_target_is_no_number() -> None:
    own = DecoderKernels()
    broken = draw(2, 40).bfloat16()
    broken[1, 7] = torch.nan
    assert own.rms_norm(broken, draw(40).bfloat16(), torch.tensor(1e-5))[0].isnan().all(1).tolist() == [False, True]
    assert own.swiglu(broken, broken).isnan().sum() == 1
    assert own.cross_entropy_(broken, torch.tensor([3, 3])).isnan().tolist() == [False, True]
    assert own.cross_entropy_(draw(3, 40).bfloat16(), torch.tensor([0, 40, -100])).isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("alike", [False, True], ids=["rows of their own", "rows that begin alike"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_in_bf16_are_as_near_to_those_in_fp32_as_transformers(
    bases, kind: type[DecoderKernels], family: str, lengths: tuple[int, ...], adaptation: str, alike: bool
) -> None:
    model = load_generator(bases(family), 0.0)
    ADAPTATIONS[adaptation]().attach(model)
    move(model)
    model.train()
    batch = batch_of(lengths, model.network.config.vocab_size)
    if alike:
        begin_alike(batch)
    loss, precise = gradients(model, batch)
    model.network.bfloat16()
    _, plain = gradients(model, batch)
    assert model.use(kind()) is not None
    found_loss, found = gradients(model, batch)
    assert found_loss == pytest.approx(loss, rel=5e-3)
    assert found.keys() == plain.keys()

    assert distance(found, precise) < 1.5 * distance(plain, precise)


def test_short_rows_go_through_whole_blocks_and_long_ones_do_not(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases("llama"), 0.0)
    model.network.bfloat16()
    model.use(DecoderKernels())
    went: list[int] = []
    own = DecoderKernels.attention
    monkeypatch.setattr(DecoderKernels, "attention", lambda self, given, heads: went.append(1) or own(self, given, heads))
    gradients(model.train(), batch_of((5, 9), model.network.config.vocab_size))
    assert len(went) == len(model.blocks)
    gradients(model, batch_of((decoder_kernels.LONGEST + 1, 9), model.network.config.vocab_size))
    model.eval().hidden_states(batch_of((5, 9), model.network.config.vocab_size))
    assert len(went) == len(model.blocks)


def test_what_does_not_move_in_a_block_gets_no_gradient_and_changes_no_other(bases) -> None:
    model = load_generator(bases("llama"), 0.0)
    model.network.bfloat16()
    model.use(DecoderKernels())
    batch = batch_of((5, 9), model.network.config.vocab_size)
    _, whole = gradients(model.train(), batch)
    kept = ("input_layernorm.weight", "k_proj.weight", "up_proj.weight")
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_(not name.endswith(kept))
    _, part = gradients(model, batch)
    assert part.keys() == {name for name in whole if not name.endswith(kept)}
    assert all(torch.equal(part[name], whole[name]) for name in part)


def test_a_wrong_gradient_in_a_block_is_noticed(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases("llama"), 0.0)
    model.train()
    batch = batch_of((5, 9, 30), model.network.config.vocab_size)
    _, precise = gradients(model, batch)
    model.network.bfloat16()
    _, plain = gradients(model, batch)
    own = DecoderKernels.rms_norm_backward
    monkeypatch.setattr(
        DecoderKernels, "rms_norm_backward", lambda self, *given: own(self, *given[:4])
    )  # what went past the norm is forgotten
    model.use(DecoderKernels())
    _, found = gradients(model, batch)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert float((found[name] - precise[name]).norm()) > 3 * float((plain[name] - precise[name]).norm())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags name instruction sets of x86")
@pytest.mark.parametrize("architecture", ["x86-64-v2", "x86-64-v3"])
def test_narrower_registers_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, architecture: str) -> None:
    wide = _norms()
    monkeypatch.setattr(shared_library, "FLAGS", tuple(flag.replace("native", architecture) for flag in shared_library.FLAGS))
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path))
    assert _norms() == pytest.approx(wide, rel=1e-3)


def _norms() -> list[float]:
    own: Any = DecoderKernels()
    projected, of, d_said = attention(*SHAPES[1])
    said, total = own.attention(projected, of)
    gradient = own.attention_gradient(projected, of, said, total, d_said)
    lost = own.cross_entropy_(draw(5, 99).bfloat16(), torch.arange(5))
    return [float(each.float().norm()) for each in (said, gradient, lost, own.swiglu(projected, projected))]


def test_plain_kernels_do_not_go_through_whole_blocks(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases("llama"), 0.0)
    monkeypatch.setattr(fused_block._Block, "forward", None)
    model.use(Plain(torch.float32))
    gradients(model.train(), batch_of((5, 9), model.network.config.vocab_size))


def test_blocks_with_another_activation_or_with_somebody_who_listens_go_their_own_way(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[int] = []
    own = DecoderKernels.attention
    monkeypatch.setattr(DecoderKernels, "attention", lambda self, given, heads: went.append(1) or own(self, given, heads))
    model = load_generator(bases("llama"), 0.0)
    model.network.bfloat16()
    model.use(DecoderKernels())
    batch = batch_of((5, 9), model.network.config.vocab_size)
    handle = model.blocks[0].get_submodule("self_attn").register_forward_hook(lambda *_: None)
    gradients(model.train(), batch)
    assert len(went) == len(model.blocks) - 1
    handle.remove()
    other: Any = load_generator(bases("llama"), 0.0)
    for block in other.blocks:
        block.mlp.config.hidden_act = "gelu"
    other.network.bfloat16()
    other.use(DecoderKernels())
    went.clear()
    gradients(other.train(), batch)
    assert not went
