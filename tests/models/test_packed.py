"""Packing changes nothing but the time it takes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from luthier.core.types import Batch
from luthier.models.pretrained import load_classifier, load_generator
from tests.conftest import DECODERS, ENCODERS, PADDED

LENGTHS = (5, 17, 9, 9, 30, 2)


def batch_of(lengths: tuple[int, ...], vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, vocabulary, (sum(lengths),), generator=generator)
    return Batch(torch.arange(len(lengths)), torch.tensor(lengths), {"tokens": tokens}, {})


def pad(batch: Batch, right: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    longest = int(batch.lengths.max())
    ids, mask = torch.zeros(len(batch), longest, dtype=torch.long), torch.zeros(len(batch), longest, dtype=torch.long)
    for row, tokens in enumerate(batch.flat["tokens"].split(batch.lengths.tolist())):
        place = slice(0, len(tokens)) if right else slice(longest - len(tokens), longest)
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED])
def test_a_packed_encoder_gives_the_logits_and_gradients_of_transformers_padded_one(bases, family: str) -> None:
    base = bases(family)
    ours = load_classifier(base, ["a", "b", "c"], "cls", 0.0, seed=3).eval()
    plain = AutoModelForSequenceClassification.from_pretrained(
        base.folder, num_labels=3, attn_implementation="eager", ignore_mismatched_sizes=True
    ).eval()
    plain.load_state_dict(ours.network.state_dict())
    batch = batch_of(LENGTHS, plain.config.vocab_size)
    ids, mask = pad(batch)
    logits = ours(batch)
    expected = plain(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    (logits**2).sum().backward()
    (expected**2).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.network.named_parameters():
        if theirs[name].grad is not None:
            assert parameter.grad is not None, name
            assert torch.allclose(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4 * float(theirs[name].grad.abs().max()) + 1e-6), (
                name
            )


@pytest.mark.parametrize("family", DECODERS)
def test_a_packed_decoder_gives_the_logits_and_gradients_of_transformers_row_by_row(bases, family: str) -> None:
    base = bases(family)
    ours = load_generator(base, 0.0).eval()
    plain = AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager").eval()
    batch = batch_of(LENGTHS, plain.config.vocab_size)
    logits = ours.network.lm_head(ours.hidden_states(batch))
    expected = torch.cat([plain(input_ids=tokens[None]).logits[0] for tokens in batch.flat["tokens"].split(list(LENGTHS))])
    assert torch.allclose(logits, expected, atol=1e-5)
    (logits**2).sum().backward()
    (expected**2).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.allclose(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4 * float(theirs[name].grad.abs().max()) + 1e-6), name


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_layer_that_looks_back_only_so_far_does_so_with_dropout_too(bases, family: str) -> None:
    batch = batch_of(LENGTHS, 200)
    found = []
    for dropout in (0.0, 1e-9):  # the second goes the way of dropout, and drops nothing
        model = load_generator(bases(family), dropout).train()
        with model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
            states = model.hidden_states(batch)
            states.square().sum().backward()
        found.append((states.detach(), [parameter.grad for parameter in model.network.parameters() if parameter.grad is not None]))
    (plain, gradients), (dropped, others) = found
    assert torch.allclose(plain, dropped, atol=1e-5)
    assert len(gradients) == len(others)
    assert all(
        torch.allclose(one, two, rtol=1e-4, atol=1e-4 * float(one.abs().max()) + 1e-6) for one, two in zip(gradients, others, strict=True)
    )


def test_a_row_longer_than_what_is_kept_gives_the_same_gradients(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models import packed

    found = []
    for limit in (512, 4):
        monkeypatch.setattr(packed, "KEPT_LENGTH", limit)
        model = load_classifier(bases("bert"), ["a", "b"], "mean", 0.2, seed=3)
        model.network.train()
        batch = batch_of(LENGTHS, 200)
        with model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
            model(batch).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_row_is_blind_to_its_neighbours(bases) -> None:
    model = load_generator(bases("llama"), 0.0).eval()
    batch = batch_of(LENGTHS, 200)
    changed = batch.flat["tokens"].clone()
    changed[:5] = 7
    other = Batch(batch.index, batch.lengths, {"tokens": changed}, {})
    with torch.no_grad():
        one, two = model.hidden_states(batch), model.hidden_states(other)
    assert not torch.equal(one[:5], two[:5])
    assert torch.allclose(one[5:], two[5:], atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_pooling_reads_the_token_it_says(bases, pooling: str) -> None:
    from luthier.models.pooling import pool

    hidden = torch.randn(sum(LENGTHS), 4)
    rows = hidden.split(list(LENGTHS))
    expected = {"cls": [row[0] for row in rows], "mean": [row.mean(0) for row in rows], "last": [row[-1] for row in rows]}[pooling]
    assert torch.allclose(pool(hidden, torch.tensor(LENGTHS), pooling), torch.stack(expected), atol=1e-6)
