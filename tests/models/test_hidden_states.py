"""What lies behind some blocks is what transformers says lies there, and what lies above is not computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.core.types import Batch
from luthier.models.encode import base_views
from luthier.models.pretrained import PackedNetwork, load_classifier, load_tokenizer
from tests.conftest import DECODERS, ENCODERS, PADDED
from tests.data.test_malformed import sentence
from tests.models.test_frozen_cache import freeze

TEXTS = [sentence(number) for number in range(5)] + ["short", "one that is a little longer than the others " * 3]


BLOCKS = {"distilbert": "transformer.layer", "modernbert": "layers", "gpt2": "h"}


def batch_of(tokens: list[list[int]]) -> Batch:
    flat = {"tokens": torch.tensor([token for row in tokens for token in row])}
    return Batch(index=torch.arange(len(tokens)), lengths=torch.tensor([len(row) for row in tokens]), flat=flat, each={})


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED, *DECODERS])
def test_views_are_means_and_last_tokens_of_transformers_hidden_states(bases: Any, family: str) -> None:
    from transformers import AutoModel

    base = bases(family)
    model, tokenizer = load_classifier(base, ["a", "b"], "mean", 0.0, 0).eval(), load_tokenizer(base)
    tokens = tokenizer(TEXTS)["input_ids"]
    found = base_views(model, batch_of(tokens))
    plain = AutoModel.from_pretrained(base.folder).eval()
    last: list[torch.Tensor] = []  # transformers puts a decoder's final norm into its last hidden state
    plain.get_submodule(BLOCKS.get(family, "layers" if family in DECODERS else "encoder.layer"))[-1].register_forward_hook(
        lambda block, given, said: last.append(said[0] if isinstance(said, tuple) else said)
    )
    for row, ids in enumerate(tokens):
        with torch.no_grad():
            places = {"position_ids": model.first_position + torch.arange(len(ids))[None]} if model.first_position else {}
            states = plain(torch.tensor([ids]), output_hidden_states=True, **places).hidden_states
        assert len(states) == 4  # three blocks: behind two (half and two thirds) and three
        theirs = [states[2][0].mean(0), last[-1].view(len(ids), -1).mean(0)]
        theirs += [states[2][0, -1], last[-1].view(len(ids), -1)[-1]] if family in DECODERS else []
        assert found[row] == pytest.approx(torch.stack(theirs).numpy(), abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
def test_no_block_above_the_last_that_is_wanted_is_asked(bases: Any, family: str) -> None:
    base = bases(family)
    model: PackedNetwork = load_classifier(base, ["a", "b"], "mean", 0.0, 0).train()
    asked: list[int] = []
    for number, block in enumerate(model.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: asked.append(number))
    model.hidden_states_at_depths(batch_of(load_tokenizer(base)(TEXTS)["input_ids"]), (1, 2))
    assert set(asked) == {1, 2}
    assert model.training


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("depth", [2, 3])
def test_what_is_kept_of_frozen_blocks_is_used_above_them_and_changes_nothing(bases: Any, records: Any, family: str, depth: int) -> None:
    work = freeze(bases, records, family, depth=depth)
    frozen_cache, batch = work.model.frozen_cache, work.objective.collate(work.train[:6], 0, 0)
    found = base_views(work.model.eval(), batch)
    assert bool(frozen_cache.computed) == (depth == 2)  # of three, the lower floor is the second
    work.model.frozen_cache = None
    assert found == pytest.approx(base_views(work.model, batch), abs=1e-5)
