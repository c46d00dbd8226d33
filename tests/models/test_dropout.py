"""Dropout depends on seed, step, example, site and position, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.core.errors import ModelError
from luthier.core.types import Batch
from luthier.models.dropout import Dropout, DropoutKeys, attach, dropout_scale, scale_kept
from luthier.models.pretrained import load_classifier
from tests.models.test_packed import LENGTHS, batch_of


def keys(count: int) -> torch.Tensor:
    dropout_keys = DropoutKeys()
    with dropout_keys.set_keys(3, 5, torch.arange(count), torch.ones(count, dtype=torch.long)):
        assert dropout_keys.tokens is not None
        return dropout_keys.tokens.clone()


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_the_share_that_is_kept_is_the_one_asked_for(probability: float) -> None:
    kept = dropout_scale(keys(4000), 384, probability, torch.float32) / scale_kept(probability)
    sd = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - probability)) < 5 * sd
    assert float((kept.mean(0) - (1 - probability)).abs().max()) < 6 * (probability * (1 - probability) / 4000) ** 0.5
    assert float((kept.mean(1) - (1 - probability)).abs().max()) < 6 * (probability * (1 - probability) / 384) ** 0.5


def test_neighbouring_entries_rows_and_sites_are_not_correlated() -> None:
    kept = dropout_scale(keys(2000), 256, 0.5, torch.float32) / scale_kept(0.5) - 0.5
    other = dropout_scale(keys(2000) ^ 12345, 256, 0.5, torch.float32) / scale_kept(0.5) - 0.5
    size = 5 * 0.25 / kept.numel() ** 0.5
    for one, two in ((kept[:, 1:], kept[:, :-1]), (kept[:, 2:], kept[:, :-2]), (kept[1:], kept[:-1]), (kept, other)):
        assert abs(float((one * two).mean())) < size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 47, 48])
def test_in_half_the_bits_the_same_entries_are_kept(dtype: torch.dtype, width: int) -> None:
    half = dropout_scale(keys(50), width, 0.3, dtype)
    assert half.shape == (50, width) and half.dtype == dtype and half.is_contiguous()
    assert torch.equal(half, dropout_scale(keys(50), width, 0.3, torch.float32).to(dtype))


def test_the_mean_stays() -> None:
    dropout_keys = DropoutKeys()
    layer = Dropout(0.1, dropout_keys, "here")
    with dropout_keys.set_keys(0, 0, torch.arange(2000), torch.ones(2000, dtype=torch.long)):
        values = layer(torch.ones(2000, 64))
    assert abs(float(values.mean()) - 1) < 0.005
    assert sorted(values.unique().tolist()) == pytest.approx([0.0, scale_kept(0.1)])


def test_what_is_dropped_has_no_gradient_and_the_rest_is_scaled() -> None:
    dropout_keys = DropoutKeys()
    layer = Dropout(0.3, dropout_keys, "here")
    values = torch.randn(50, 8, requires_grad=True)
    with dropout_keys.set_keys(0, 0, torch.arange(50), torch.ones(50, dtype=torch.long)):
        out = layer(values)
    out.sum().backward()
    assert torch.equal(values.grad == 0, out == 0)
    assert torch.allclose(values.grad[values.grad != 0], torch.tensor(scale_kept(0.3)))


def test_an_example_gets_the_same_mask_alone_and_in_company(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.2, seed=3)
    model.network.train()
    batch = batch_of(LENGTHS, 200)
    with model.dropout_keys.set_keys(1, 4, batch.index, batch.lengths):
        whole = model(batch)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        part = batch.part(start, stop)
        with model.dropout_keys.set_keys(1, 4, part.index, part.lengths):
            assert torch.allclose(model(part), whole[start:stop], atol=1e-5)


@pytest.mark.parametrize("seed, step, index", [(2, 4, 0), (1, 5, 0), (1, 4, 50)])
def test_another_seed_step_or_example_gets_another_mask(bases, seed: int, step: int, index: int) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.2, seed=3)
    model.network.train()
    batch = batch_of((9,), 200)

    def logits(seed: int, step: int, index: int) -> torch.Tensor:
        moved = Batch(batch.index + index, batch.lengths, batch.flat, batch.each)
        with model.dropout_keys.set_keys(seed, step, moved.index, moved.lengths):
            return model(moved)

    assert torch.equal(logits(1, 4, 0), logits(1, 4, 0))
    assert not torch.equal(logits(1, 4, 0), logits(seed, step, index))


def test_eval_mode_drops_nothing(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.5, seed=3).eval()
    batch = batch_of(LENGTHS, 200)
    assert torch.equal(model(batch), model(batch))


def drop(
    shape: tuple[int, ...], index: torch.Tensor, lengths: torch.Tensor, probability: float = 0.4, **more: torch.Tensor
) -> torch.Tensor:
    """What dropout makes of ones, for these examples; `more`: lengths of further streams, of which `target` passes if it is there."""
    dropout_keys = DropoutKeys()
    layer = Dropout(probability, dropout_keys, "here", stream="target" if more else "")
    with dropout_keys.set_keys(3, 5, index, lengths, more):
        return layer(torch.ones(shape))


MAPS = st.one_of(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7)), st.tuples(st.integers(1, 9), st.integers(1, 8)))
LENGTHS_OF_FEW = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(LENGTHS_OF_FEW, MAPS, st.data())
def test_the_mask_of_a_map_depends_neither_on_the_batch_nor_on_its_split(
    sizes: list[int], axes: tuple[int, ...], data: st.DataObject
) -> None:
    """Whatever numbers of tokens the examples say they have; an image may say any."""
    lengths, index = torch.tensor(sizes), torch.tensor(data.draw(st.permutations(range(len(sizes)))))
    whole = drop((len(sizes), *axes), index, lengths)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, unique=True)))
    some = drop((len(chosen), *axes), index[chosen], lengths[chosen])
    assert torch.equal(some, whole[chosen])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(1, 5))
def test_padding_behind_a_row_changes_no_mask(sizes: list[int], behind: int) -> None:
    """(examples, length, channels) and (examples, channels, height, width), laid out longer."""
    count, length = len(sizes), max(sizes)
    index, lengths = torch.arange(count), torch.tensor(sizes)
    assert torch.equal(drop((count, length, 8), index, lengths), drop((count, length + behind, 8), index, lengths)[:, :length])
    short, long = (drop((count, 3, length + more, length + more), index, lengths) for more in (0, behind))
    assert torch.equal(short, long[:, :, :length, :length])


def test_a_token_in_a_padded_map_draws_as_in_the_stream() -> None:
    lengths = torch.tensor([5, 3, 4])
    stream = drop((12, 8), torch.arange(3), lengths)
    padded = drop((3, 5, 8), torch.arange(3), lengths)
    assert torch.equal(torch.cat([padded[row, : int(size)] for row, size in enumerate(lengths)]), stream)


@pytest.mark.parametrize("shape", [(64, 8, 12, 12), (64, 40, 30), (64, 3, 4, 9, 9)])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_of_a_map_the_right_share_is_dropped_along_every_axis(shape: tuple[int, ...], probability: float) -> None:
    kept = drop(shape, torch.arange(shape[0]), torch.ones(shape[0], dtype=torch.long), probability) > 0
    for axis in range(len(shape)):
        rest = [other for other in range(len(shape)) if other != axis]
        sd = (probability * (1 - probability) * shape[axis] / kept.numel()) ** 0.5
        assert float((kept.float().mean(rest) - (1 - probability)).abs().max()) < 5 * sd
        one, two = (kept.float().narrow(axis, start, shape[axis] - 1) - (1 - probability) for start in (0, 1))
        assert abs(float((one * two).mean())) < 5 * probability * (1 - probability) / one.numel() ** 0.5


@settings(max_examples=60, deadline=None)
@given(LENGTHS_OF_FEW, st.data())
def test_a_second_stream_has_keys_of_its_own_that_do_not_depend_on_the_batch(sources: list[int], data: st.DataObject) -> None:
    count = len(sources)
    targets = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    source, target, index = torch.tensor(sources), torch.tensor(targets), torch.arange(count)
    whole = drop((sum(targets), 64), index, source, target=target)
    start = 0
    for row, size in enumerate(targets):
        own = slice(row, row + 1)
        alone = drop((size, 64), index[own], source[own], target=target[own])
        assert torch.equal(alone, whole[start : start + size])
        start += size
    if sources == targets:
        assert not torch.equal(whole, drop((sum(targets), 64), index, source))


def test_a_stream_is_found_by_its_site_and_by_a_context_alike() -> None:
    model = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Dropout(0.5)), "decoder": nn.Sequential(nn.Dropout(0.5)), "decoders": nn.Sequential(nn.Dropout(0.5))}
    )
    dropout_keys = attach(model, 0.4, {"decoder.": "target"})
    assert [layer[0].stream for layer in model.values()] == ["", "target", ""]
    source, target, index = torch.tensor([2, 5]), torch.tensor([4, 3]), torch.arange(2)  # both have seven tokens
    plain = Dropout(0.4, dropout_keys, "decoder.0")
    with dropout_keys.set_keys(1, 2, index, source, {"target": target}):
        by_site = model["decoder"](torch.ones(7, 32))
        with dropout_keys.stream("target"):
            by_context = plain(torch.ones(7, 32))
        of_the_source = plain(torch.ones(7, 32))
        with dropout_keys.use_layout(torch.tensor([0, 1, 2, 3, 4, 5, 6, 6]), 2, "target"):
            padded = model["decoder"](torch.ones(2, 4, 32))
            by_head = model["decoder"](torch.ones(2, 3, 4, 4))  # as attention drops its probabilities
            assert torch.equal(plain(torch.ones(7, 32)), of_the_source)
    assert torch.equal(by_site, by_context)
    assert not torch.equal(by_site, of_the_source)
    assert torch.equal(torch.cat([padded[0], padded[1, :3]]), by_site)
    assert not torch.equal(by_head[:, 0], by_head[:, 1])


def test_a_stream_that_the_micro_batch_does_not_have_is_named_with_those_it_has() -> None:
    dropout_keys = DropoutKeys()
    layer = Dropout(0.4, dropout_keys, "here", stream="targets")
    ones = torch.ones(2, dtype=torch.long)
    with (
        dropout_keys.set_keys(0, 0, torch.arange(2), ones, {"target": ones}),
        pytest.raises(ModelError, match=r"'targets'[\s\S]*did you mean 'target'"),
    ):
        layer(torch.ones(2, 4))
    assert torch.equal(layer.eval()(torch.ones(2, 4)), torch.ones(2, 4))
