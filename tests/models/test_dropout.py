"""Dropout depends on seed, step, example, site and position, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from luthier.core.types import Batch
from luthier.models.dropout import Chance, Dropout, kept_scale, scale_kept
from luthier.models.pretrained import load_classifier
from tests.models.test_packed import LENGTHS, batch_of


def keys(count: int) -> torch.Tensor:
    chance = Chance()
    with chance.keyed(3, 5, torch.arange(count), torch.ones(count, dtype=torch.long)):
        assert chance.tokens is not None
        return chance.tokens.clone()


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_the_share_that_is_kept_is_the_one_asked_for(probability: float) -> None:
    kept = kept_scale(keys(4000), 384, probability, torch.float32) / scale_kept(probability)
    sd = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - probability)) < 5 * sd
    assert float((kept.mean(0) - (1 - probability)).abs().max()) < 6 * (probability * (1 - probability) / 4000) ** 0.5
    assert float((kept.mean(1) - (1 - probability)).abs().max()) < 6 * (probability * (1 - probability) / 384) ** 0.5


def test_neighbouring_entries_rows_and_sites_are_not_correlated() -> None:
    kept = kept_scale(keys(2000), 256, 0.5, torch.float32) / scale_kept(0.5) - 0.5
    other = kept_scale(keys(2000) ^ 12345, 256, 0.5, torch.float32) / scale_kept(0.5) - 0.5
    size = 5 * 0.25 / kept.numel() ** 0.5
    for one, two in ((kept[:, 1:], kept[:, :-1]), (kept[:, 2:], kept[:, :-2]), (kept[1:], kept[:-1]), (kept, other)):
        assert abs(float((one * two).mean())) < size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 47, 48])
def test_in_half_the_bits_the_same_entries_are_kept(dtype: torch.dtype, width: int) -> None:
    half = kept_scale(keys(50), width, 0.3, dtype)
    assert half.shape == (50, width) and half.dtype == dtype and half.is_contiguous()
    assert torch.equal(half, kept_scale(keys(50), width, 0.3, torch.float32).to(dtype))


def test_the_mean_stays() -> None:
    chance = Chance()
    layer = Dropout(0.1, chance, "here")
    with chance.keyed(0, 0, torch.arange(2000), torch.ones(2000, dtype=torch.long)):
        values = layer(torch.ones(2000, 64))
    assert abs(float(values.mean()) - 1) < 0.005
    assert sorted(values.unique().tolist()) == pytest.approx([0.0, scale_kept(0.1)])


def test_what_is_dropped_has_no_gradient_and_the_rest_is_scaled() -> None:
    chance = Chance()
    layer = Dropout(0.3, chance, "here")
    values = torch.randn(50, 8, requires_grad=True)
    with chance.keyed(0, 0, torch.arange(50), torch.ones(50, dtype=torch.long)):
        out = layer(values)
    out.sum().backward()
    assert torch.equal(values.grad == 0, out == 0)
    assert torch.allclose(values.grad[values.grad != 0], torch.tensor(scale_kept(0.3)))


def test_an_example_gets_the_same_mask_alone_and_in_company(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.2, seed=3)
    model.network.train()
    batch = batch_of(LENGTHS, 200)
    with model.chance.keyed(1, 4, batch.index, batch.lengths):
        whole = model(batch)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        part = batch.part(start, stop)
        with model.chance.keyed(1, 4, part.index, part.lengths):
            assert torch.allclose(model(part), whole[start:stop], atol=1e-5)


@pytest.mark.parametrize("seed, step, index", [(2, 4, 0), (1, 5, 0), (1, 4, 50)])
def test_another_seed_step_or_example_gets_another_mask(bases, seed: int, step: int, index: int) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.2, seed=3)
    model.network.train()
    batch = batch_of((9,), 200)

    def logits(seed: int, step: int, index: int) -> torch.Tensor:
        moved = Batch(batch.index + index, batch.lengths, batch.flat, batch.each)
        with model.chance.keyed(seed, step, moved.index, moved.lengths):
            return model(moved)

    assert torch.equal(logits(1, 4, 0), logits(1, 4, 0))
    assert not torch.equal(logits(1, 4, 0), logits(seed, step, index))


def test_eval_mode_drops_nothing(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.5, seed=3).eval()
    batch = batch_of(LENGTHS, 200)
    assert torch.equal(model(batch), model(batch))
