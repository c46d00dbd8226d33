"""The compiled step of small translation decoders: transformers' own tokens, torch's own numbers, and torch's operations for what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from luthier.adaptation.lora_layer import LoraLinear
from luthier.models.encoder_decoder import EncoderDecoder, make_translator
from luthier.models.halves import halves_of
from luthier.models.kernels import compiled_translation
from luthier.models.kernels.compiled_translation import CompiledSteps, open_steps
from luthier.models.translate import Writing, write
from luthier.models.translation_steps import TorchSteps, read_sources
from tests.models.test_encoder_decoder import NETWORKS
from tests.models.test_encoder_decoder import network as small

VOCABULARY = 150
"""Tokens: two panels of 64 and a part of one."""
PAD, END = 0, 1
STEPS = 80


def marian() -> EncoderDecoder:
    """Norms behind their layers, and a smooth activation."""
    sides = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}  # fmt: skip
    marks: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD, "forced_eos_token_id": None}
    config = MarianConfig(vocab_size=VOCABULARY, d_model=64, max_position_embeddings=64, activation_function="swish", **sides, **marks)
    return EncoderDecoder(MarianMTModel(config), 0.0)


KNOWN: dict[str, Callable[[], EncoderDecoder]] = {"scratch": lambda: make_translator(VOCABULARY, 2, 64, 0.0, 1), "marian": marian}


def known(name: str) -> EncoderDecoder:
    """A tiny network that the compiled code knows, whose weights are far from zero."""
    torch.manual_seed(0)
    made = KNOWN[name]()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        made.network.final_logits_bias[0, PAD] = 3.0  # never written, however likely
    return made.eval()


def learned(name: str) -> EncoderDecoder:
    """Such a network after some steps of copying sources, so that its texts end at many lengths."""
    made, generator = known(name), torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(made.network.parameters(), 3e-3)
    for _ in range(STEPS):
        lengths = torch.randint(1, 11, (32,), generator=generator)
        tokens = torch.randint(4, VOCABULARY, (32, 11), generator=generator)
        places = torch.arange(11)
        source = tokens.where(places < lengths[:, None], PAD)
        target = source.where(places != lengths[:, None], END).where(places <= lengths[:, None], -100)
        optimizer.zero_grad()
        made.network(input_ids=source, attention_mask=(source != PAD).long(), labels=target).loss.backward()
        optimizer.step()
    return made


def texts(count: int = 30) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, VOCABULARY, (1 + row % 19,), generator=generator).tolist() for row in range(count)]


def compiled(model: EncoderDecoder, sources: list[list[int]], longest: int, beams: int) -> CompiledSteps:
    steps = open_steps(model, sources, longest, beams, (PAD,))
    assert isinstance(steps, CompiledSteps)
    return steps


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", KNOWN)
def test_the_compiled_step_writes_what_generate_writes(name: str, beams: int) -> None:
    model, sources = learned(name), texts()
    with torch.no_grad():
        assert isinstance(open_steps(model, sources, 12, beams, (PAD,)), CompiledSteps)
    ours = write(model, sources, [12] * len(sources), Writing(END, (PAD,), beams))
    longest = max(map(len, sources))
    made = model.network.generate(
        input_ids=torch.tensor([[*each, *[PAD] * (longest - len(each))] for each in sources]),
        attention_mask=torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in sources]),
        num_beams=beams, do_sample=False, max_new_tokens=12, suppress_tokens=[PAD], early_stopping=False, length_penalty=1.0,
    ).tolist()  # fmt: skip
    assert ours == [[token for token in text[1:] if token not in (PAD, END)] for text in made]
    assert len({len(text) for text in ours}) > 2  # rows leave one after another
    if name == "scratch":
        assert max(map(len, ours)) == 12  # and some are at their limit


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", KNOWN)
@torch.no_grad()
def test_compiled_log_probabilities_are_those_of_torch_when_texts_change_places_and_rows_leave(name: str, beams: int) -> None:
    model, sources = known(name), texts(5)
    both = (compiled(model, sources, 40, beams), TorchSteps(model, sources, 40, beams, (PAD,)))
    generator = torch.Generator().manual_seed(2)
    rows = 5
    for step in range(40):  # beyond a multiple of sixteen places
        tokens = torch.randint(2, VOCABULARY, (rows * beams,), generator=generator)
        (ours, found), (theirs, expected) = (steps.candidates(tokens, 6) for steps in both) if beams > 1 else (
            steps_of(each, tokens) for each in both
        )  # fmt: skip
        assert torch.equal(found.long(), expected)
        assert torch.allclose(ours, theirs, atol=2e-4)
        order = (torch.arange(rows)[:, None] * beams + torch.randint(0, beams, (rows, beams), generator=generator)).flatten()
        for steps in both:
            steps.follow(order)
        if step == 7:
            for steps in both:
                steps.keep_rows(torch.tensor([0, 2, 3]))
            rows = 3


def steps_of(steps: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens alone, as candidates are given."""
    found = torch.tensor(steps.likeliest(tokens))
    return torch.zeros(len(found)), found


@pytest.mark.usefixtures("compiling")
@torch.no_grad()
def test_a_text_has_the_same_bits_alone_and_beside_others_and_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = known("scratch"), texts(29)
    told = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        steps = compiled(model, sources, 4, 2)
        tokens = torch.arange(2, 2 + 58)
        told.append((steps.candidates(tokens, 4), steps.candidates(tokens, 4)))
        assert compiled(model, sources, 4, 1).likeliest(tokens[::2]) == told[0][0][1][::2, 0].tolist()
    for one, three in zip(*told, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.usefixtures("compiling")
def test_weights_that_have_moved_are_those_that_write() -> None:
    model, sources = known("scratch"), texts(6)
    how = Writing(END, (PAD,))
    before = write(model, sources, [9] * 6, how)
    with torch.no_grad():
        model.network.final_logits_bias[0, 77] = 50.0
    assert write(model, sources, [9] * 6, how) == [[77] * 9] * 6 != before


@pytest.mark.usefixtures("compiling")
@torch.no_grad()
def test_what_the_compiled_code_does_not_know_goes_through_torch() -> None:
    sources = [[5, 6, 7]]
    for name in NETWORKS:  # heads of 8 numbers, relative positions, another activation, a width of 32
        assert isinstance(open_steps(small(name).eval(), sources, 4, 1, ()), TorchSteps)
    assert isinstance(open_steps(known("scratch").bfloat16(), sources, 4, 1, ()), TorchSteps)
    adapted = known("scratch")
    layer: Any = halves_of(adapted.network)[1].blocks[1].module
    layer.fc1 = LoraLinear(layer.fc1, 2, 4.0, 0.0, "fc1", adapted.dropout_keys)
    assert isinstance(open_steps(adapted, sources, 4, 1, ()), TorchSteps)
    watched = known("scratch")
    other: Any = halves_of(watched.network)[1].blocks[0].module
    other.self_attn.q_proj.register_forward_hook(lambda *_: None)
    assert isinstance(open_steps(watched, sources, 4, 1, ()), TorchSteps)


@torch.no_grad()
def test_without_a_compiler_torch_writes() -> None:
    assert compiled_translation._library_or_none("nowhere") is None
    assert isinstance(open_steps(known("scratch"), [[5, 6]], 4, 1, ()), TorchSteps)


@torch.no_grad()
def test_sources_are_padded_with_their_own_last_token() -> None:
    read = read_sources(known("scratch"), [[5, 6, 7], [8]], 16)
    assert (read.longest, read.lengths.tolist()) == (16, [3, 1])
    assert read.place.view(2, 16)[:, :4].tolist() == [[0, 1, 2, 2], [3, 3, 3, 3]]
