"""Encoder–decoders on rows end to end: transformers' own numbers, whatever the lengths, and keyed dropout on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from luthier.core.types import Batch, Stream
from luthier.models.encoder_decoder import EncoderDecoder, make_translator
from luthier.models.next_token import next_token_loss
from luthier.models.pairs import lay_out
from luthier.models.translate import Writing, write

VOCABULARY = 50
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32}
SIDES: dict[str, Any] = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip


def bart(dropout: float) -> EncoderDecoder:
    return EncoderDecoder(BartForConditionalGeneration(BartConfig(**SMALL, **SIDES, max_position_embeddings=64, forced_eos_token_id=None)), dropout)  # fmt: skip


def t5(dropout: float) -> EncoderDecoder:
    config = T5Config(**SMALL, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    return EncoderDecoder(T5ForConditionalGeneration(config), dropout)


def marian(dropout: float) -> EncoderDecoder:
    config = MarianConfig(**SMALL, **SIDES, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None)  # fmt: skip
    return EncoderDecoder(MarianMTModel(config), dropout)


NETWORKS: dict[str, Callable[[float], EncoderDecoder]] = {
    "scratch": lambda dropout: make_translator(VOCABULARY, 2, 32, dropout, 1),
    "marian": marian,
    "bart": bart,
    "t5": t5,
}


def network(name: str, dropout: float = 0.0) -> EncoderDecoder:
    """A tiny network whose weights are far from zero, biases and relative positions included."""
    torch.manual_seed(0)
    made = NETWORKS[name](dropout)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if hasattr(made.network, "final_logits_bias"):
            made.network.final_logits_bias[0, made.network.config.eos_token_id] = 2.0
    return made


def batch_of(count: int = 6, longest: int = 30) -> Batch:
    generator = torch.Generator().manual_seed(5)
    source, target = (torch.randint(1, most, (count,), generator=generator) for most in (12, longest))
    tokens, shown = (torch.randint(4, VOCABULARY, (int(sizes.sum()),), generator=generator) for sizes in (source, target))
    shown[target.cumsum(0) - target] = -1
    return Batch(torch.arange(count), source, {"tokens": tokens}, {}, {"target": Stream(target, {"shown": shown})})


def logits(model: EncoderDecoder, batch: Batch) -> Tensor:
    weight, bias = model.output()
    return model.hidden_states(batch) @ weight.t() + (0 if bias is None else bias)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_is_what_transformers_makes_of_it_alone_and_so_are_the_gradients(name: str) -> None:
    model, batch = network(name).eval(), batch_of()
    target = batch.streams["target"]
    ours = logits(model, batch)
    ours.square().sum().backward()
    gradients = {key: value.grad.clone() for key, value in model.network.named_parameters() if value.grad is not None}
    model.network.zero_grad()
    sources = torch.split(batch.flat["tokens"], batch.lengths.tolist())
    shown = torch.split(target.values["shown"].masked_fill(target.values["shown"] < 0, model.start), target.lengths.tolist())
    rows = [model.network(input_ids=one[None], decoder_input_ids=two[None]).logits[0] for one, two in zip(sources, shown, strict=True)]
    theirs = torch.cat(rows)
    assert torch.allclose(ours, theirs, atol=1e-4)
    theirs.square().sum().backward()
    for key, value in model.network.named_parameters():
        if value.grad is not None and "k_proj.bias" not in key:  # of no consequence: theirs is rounding
            assert torch.allclose(gradients[key], value.grad, atol=1e-3 * float(value.grad.abs().max()) + 1e-5), key


def test_groups_of_rows_change_nothing() -> None:
    model, batch = network("marian").eval(), batch_of(40, 60)
    assert len(lay_out(batch.lengths, batch.streams["target"].lengths).groups) > 1
    with torch.no_grad():
        whole = model.hidden_states(batch)
        parts = torch.cat([model.hidden_states(batch.part(row, row + 1)) for row in range(len(batch))])
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_of_both_sides_is_keyed_by_row_and_does_not_know_the_rows_beside(name: str) -> None:
    model, batch = network(name, 0.3).train(), batch_of()

    def draw(some: Batch, step: int = 0) -> Tensor:
        with model.dropout_keys.set_keys(1, step, some.index, some.lengths, some.stream_lengths), torch.no_grad():
            return model.hidden_states(some)

    before = torch.get_rng_state()
    whole = draw(batch)
    assert torch.equal(whole, draw(batch))
    assert not torch.equal(whole, draw(batch, 1))
    assert torch.allclose(whole, torch.cat([draw(batch.part(row, row + 1)) for row in range(len(batch))]), atol=1e-5)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        assert not torch.allclose(whole, model.eval().hidden_states(batch), atol=1e-2)


def test_the_two_sides_draw_from_different_keys() -> None:
    model = network("marian", 0.5).train()
    batch = batch_of(1)
    with model.dropout_keys.set_keys(1, 0, batch.index, torch.tensor([4]), {"target": torch.tensor([4])}):
        source = model.dropout_keys.rows(4).clone()
        with model.dropout_keys.stream("target"):
            target = model.dropout_keys.rows(4)
    assert not torch.equal(source, target)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_written_is_what_generate_writes(name: str, beams: int) -> None:
    model = network(name).eval()
    config = model.network.config
    generator = torch.Generator().manual_seed(1)
    sources = [torch.randint(4, VOCABULARY, (1 + row % 9,), generator=generator).tolist() for row in range(12)]
    ours = write(model, sources, [8] * len(sources), Writing(config.eos_token_id, (config.pad_token_id,), beams))
    for source, text in zip(sources, ours, strict=True):
        made = model.network.generate(
            input_ids=torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=torch.long), num_beams=beams, do_sample=False,
            max_new_tokens=8, suppress_tokens=[config.pad_token_id], early_stopping=False, length_penalty=1.0,
        )[0].tolist()[1:]  # fmt: skip
        assert text == [token for token in made if token not in (config.eos_token_id, config.pad_token_id)]


def test_a_text_does_not_know_those_written_beside_it_and_ends_at_its_limit() -> None:
    model = network("marian").eval()
    sources = [[5, 6, 7], [8] * 12, [9, 10]]
    how = Writing(1, (0,), 2)
    together = write(model, sources, [3, 9, 5], how)
    assert together == [write(model, [source], [limit], how)[0] for source, limit in zip(sources, (3, 9, 5), strict=True)]
    assert all(len(text) <= limit for text, limit in zip(together, (3, 9, 5), strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs_loss_and_gradient(smoothing: float) -> None:
    torch.manual_seed(0)
    states, weight, target = torch.randn(70, 8), torch.randn(31, 8), torch.randint(0, 31, (70,))
    found = []
    for ours in (True, False):
        said, matrix = states.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            total, _ = next_token_loss(said, matrix, target, chunk=16, smoothing=smoothing)
        else:
            total = torch.nn.functional.cross_entropy(said @ matrix.t(), target, reduction="sum", label_smoothing=smoothing)
        (total / 3).backward()
        assert said.grad is not None and matrix.grad is not None
        found.append((total.detach(), said.grad, matrix.grad))
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_sines_stay_where_they_are_whatever_is_let_move() -> None:
    model = network("marian")
    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    moving = [name for name, _ in model.network.named_parameters()]
    assert not any("embed_positions" in name for name in moving)
    assert "model.encoder.embed_positions.weight" in model.network.state_dict()
