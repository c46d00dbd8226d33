"""What lies behind some blocks is what transformers says lies there, and what lies above is not computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.core.types import Batch
from luthier.models.encode import View, row_views, views
from luthier.models.pretrained import PackedNetwork, load_classifier, load_tokenizer
from tests.conftest import DECODERS, ENCODERS, PADDED
from tests.data.test_malformed import sentence
from tests.models.test_prefix import frozen

TEXTS = [sentence(number) for number in range(5)] + ["short", "one that is a little longer than the others " * 3]


def batch_of(tokens: list[list[int]]) -> Batch:
    flat = {"tokens": torch.tensor([token for row in tokens for token in row])}
    return Batch(index=torch.arange(len(tokens)), lengths=torch.tensor([len(row) for row in tokens]), flat=flat, each={})


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED, *DECODERS])
def test_the_means_of_floors_are_those_of_transformers_hidden_states(bases: Any, family: str) -> None:
    from transformers import AutoModel

    base = bases(family)
    model, tokenizer = load_classifier(base, ["a", "b"], "mean", 0.0, 0).eval(), load_tokenizer(base)
    tokens = tokenizer(TEXTS)["input_ids"]
    ways = [
        View(depth, pooling) for depth in (len(model.blocks) - 1, 1) for pooling in ("mean", "last")
    ]  # transformers puts a decoder's final norm into the last
    found = row_views(model, batch_of(tokens), ways)
    plain = AutoModel.from_pretrained(base.folder).eval()
    for row, ids in enumerate(tokens):
        with torch.no_grad():
            places = {"position_ids": model.first_position + torch.arange(len(ids))[None]} if model.first_position else {}
            states = plain(torch.tensor([ids]), output_hidden_states=True, **places).hidden_states
        theirs = [states[way.floor][0].mean(0) if way.pooling == "mean" else states[way.floor][0, -1] for way in ways]
        assert found[row] == pytest.approx(torch.stack(theirs).numpy(), abs=1e-4)
    assert {way.pooling for way in views(model)} == ({"mean", "last"} if family in DECODERS else {"mean"})


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
def test_no_block_above_the_last_that_is_wanted_is_asked(bases: Any, family: str) -> None:
    base = bases(family)
    model: PackedNetwork = load_classifier(base, ["a", "b"], "mean", 0.0, 0).eval()
    asked: list[int] = []
    for number, block in enumerate(model.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: asked.append(number))
    row_views(model, batch_of(load_tokenizer(base)(TEXTS)["input_ids"]), [View(1, "mean"), View(2, "last")])
    assert set(asked) == {1, 2}
    assert not model.training


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("depths", [(1, 2), (2, 3)])
def test_what_is_kept_of_frozen_blocks_is_used_from_their_depth_on_and_changes_nothing(
    bases: Any, records: Any, family: str, depths: tuple[int, int]
) -> None:
    work = frozen(bases, records, family, depth=2)
    prefix, batch = work.model.prefix, work.objective.collate(work.train[:6], 0, 0)
    ways = [View(depth, "mean") for depth in depths]
    found = row_views(work.model.eval(), batch, ways)
    assert bool(prefix.computed) == (depths[0] >= 2)
    work.model.prefix = None
    assert found == pytest.approx(row_views(work.model, batch, ways), abs=1e-5)
