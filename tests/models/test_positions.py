"""How many tokens of a text a base can place is told from its configuration, before it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from luthier.core.errors import ModelError
from luthier.models.base import positions_of
from luthier.models.encode import layer_vectors
from luthier.models.generate import continuations, end_token, generate_answers, stream_answer
from luthier.models.pretrained import load_classifier, load_generator, load_tokenizer
from tests.conftest import DECODERS, ENCODERS, PADDED
from tests.models.test_hidden_states import batch_of

TABLES = {"bert": 128, "roberta": 130, "camembert": 130, "electra": 128, "distilbert": 128, "ernie": 128, "mpnet": 132, "gpt2": 256}
"""Families that have a vector for each place, and how many the tiny bases have."""


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED, *DECODERS])
def test_a_text_of_as_many_tokens_is_read_and_a_longer_one_only_where_positions_have_no_end(bases: Any, family: str) -> None:
    base = bases(family)
    assert base.positions == TABLES.get(family, 0)
    model = load_classifier(base, ["a", "b"], "mean", 0.0, 1).eval()
    with torch.no_grad():
        assert torch.isfinite(model(batch_of([[5] * (base.positions or 300)]))).all()
        if base.positions:
            with pytest.raises((IndexError, RuntimeError)):
                model(batch_of([[5] * (base.positions + 1)]))


@pytest.mark.parametrize("family", ["marian", "bart", "t5"])
def test_the_same_of_networks_that_translate(family: str) -> None:
    sides = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2} if family == "t5" else {"d_model": 16, "max_position_embeddings": 40, **sides}
    config = AutoConfig.for_model(family, vocab_size=60, pad_token_id=0, decoder_start_token_id=0, **sizes)
    network: Any = AutoModelForSeq2SeqLM.from_config(config).eval()
    positions = positions_of(config.to_dict(), family)
    assert positions == (0 if family == "t5" else 40)
    read = positions or 90
    with torch.no_grad():
        network(input_ids=torch.full((1, read), 5), decoder_input_ids=torch.full((1, read), 5))
        if positions:
            with pytest.raises((IndexError, RuntimeError)):
                network(input_ids=torch.full((1, read + 1), 5), decoder_input_ids=torch.full((1, 2), 5))


def test_a_check_and_a_choice_of_a_base_read_no_more_than_it_can_place(bases: Any) -> None:
    assert layer_vectors(bases("bert"), ["a very long text " * 100, "a short one"]).shape == (2, 4, 32)


def test_an_answer_ends_where_positions_do_and_a_prompt_without_room_is_refused(bases: Any) -> None:
    base = bases("gpt2")
    model, tokenizer = load_generator(base, 0.0), load_tokenizer(base)
    prompt = [5] * (base.positions - 3)
    greedy = generate_answers(model, tokenizer, [prompt], 3)
    assert generate_answers(model, tokenizer, [prompt], 64) == greedy  # three more have room
    assert len(continuations(model, tokenizer, [prompt], 64, end_token(tokenizer), 0.0)) == 1
    assert "".join(stream_answer(model, tokenizer, prompt, 64, 0.0)).strip() == greedy[0]
    with pytest.raises(ModelError, match="the prompt has 300 tokens, and this model can place 256 with its answer"):
        generate_answers(model, tokenizer, [[5] * 300], 8)
