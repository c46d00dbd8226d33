"""What rows begin with in common goes through the network once, and nothing else changes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.types import Batch
from luthier.models import packing, pretrained
from luthier.models.encode import layer_vectors
from luthier.models.pretrained import load_classifier, load_generator
from luthier.models.shared_prefix import expand, find_shared_prefix, pad_to_multiple, shared_tokens
from tests.conftest import DECODERS, ENCODERS

ROWS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11], [5, 6, 7, 8, 9, 10, 12], [30, 31, 32], [5, 6, 7, 8], [30, 31, 33, 34]]


def batch_of(rows: list[list[int]]) -> Batch:
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(torch.arange(len(rows)), lengths, {"tokens": torch.tensor([token for row in rows for token in row])}, {})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8))
def test_every_past_stands_once_and_each_token_finds_its_own(rows: list[list[int]]) -> None:
    batch = batch_of(rows)
    pasts = [tuple(row[: place + 1]) for row in rows for place in range(len(row))]
    found = find_shared_prefix(batch.flat["tokens"], batch.lengths)
    if found is None:
        assert len(set(pasts)) > (1 - 1 / 32) * len(pasts)
        return
    kept = [pasts[place] for place in found.kept.tolist()]
    assert len(kept) == len(set(kept)) == len(set(pasts))
    assert [kept[place] for place in found.position.tolist()] == pasts
    assert found.kept.tolist() == sorted(found.kept.tolist())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8))
def test_a_row_saves_another_what_both_begin_with_less_an_eighth(rows: list[list[int]]) -> None:
    batch = batch_of(rows)
    for one, found in zip(rows, shared_tokens(batch.flat["tokens"], batch.lengths).tolist(), strict=True):
        for other, tokens in zip(rows, found, strict=True):
            common = next((place for place, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))
            assert one is other or tokens == common - -(-common // 8)


def test_a_piece_is_cut_by_what_its_rows_bring_of_their_own(bases) -> None:
    """A prompt of 80 tokens before ten of each row's own: of 1,440 tokens 240 go through, in one piece and not in eight."""
    prompt = list(range(100, 180))
    batch = batch_of([[*prompt, row + 1, *range(30, 39)] for row in range(16)])
    model = load_generator(bases("llama"), 0.0).train()
    parts = model.micro_batches(batch, 16 * 10 + 15 * 10 + 10)  # of what is only looked at, an eighth counts
    assert [len(part) for part in parts] == [16]
    shared_prefix = model.shared_prefix(parts[0])
    assert shared_prefix is not None
    assert len(shared_prefix.kept) == 80 + 16 * 10
    finer = model.micro_batches(batch, 100)
    assert torch.equal(torch.cat([part.index for part in finer]), batch.index)
    assert [len(part) for part in finer] == [5, 5, 5, 1]
    assert [len(part) for part in load_generator(bases("llama"), 0.1).train().micro_batches(batch, 180)] == [
        2
    ] * 8  # dropout: nothing is shared


def run_through(model: Any, rows: list[list[int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states, and the gradients of a loss that weighs every token differently."""
    model.zero_grad()
    states = model.hidden_states(batch_of(rows))
    (states * torch.sin(torch.arange(states.numel()).view_as(states))).sum().backward()
    return states.detach(), {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("family", DECODERS)
def test_states_and_gradients_are_those_of_the_rows_alone(bases, family: str) -> None:
    model = load_generator(bases(family), 0.0).train()
    seen: list[int] = []
    model.blocks[0].register_forward_pre_hook(
        lambda block, given, named: seen.append((given or [named["hidden_states"]])[0].shape[1]), with_kwargs=True
    )
    states, gradients = run_through(model, ROWS)
    assert seen.pop() == len({tuple(row[: place + 1]) for row in ROWS for place in range(len(row))}) < sum(map(len, ROWS))
    model.shared_prefix = lambda batch: None
    plain, expected = run_through(model, ROWS)
    assert seen == [sum(map(len, ROWS))]
    assert torch.allclose(states, plain, atol=1e-5)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-7, name


@pytest.mark.parametrize("family", DECODERS)
def test_the_way_that_bf16_takes_through_attention_shares_as_well(bases, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_generator(bases(family), 0.0).train()
    states, gradients = run_through(model, ROWS)
    monkeypatch.setattr("luthier.models.packed._fused_pays", lambda query, laid: False)
    others, found = run_through(model, ROWS)
    assert torch.allclose(states, others, atol=1e-5)
    for name, gradient in gradients.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-7, name


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_filling_up_to_a_round_number_changes_neither_states_nor_gradients(bases, family: str, dropout: float) -> None:
    batch, seen = batch_of(ROWS), []
    model = (
        load_generator(bases(family), dropout) if family in DECODERS else load_classifier(bases(family), ["a", "b"], "cls", dropout, 0)
    ).train()
    model.blocks[0].register_forward_pre_hook(
        lambda block, given, named: seen.append((given or [named["hidden_states"]])[0].shape[1]), with_kwargs=True
    )
    shared, found = model.shared_prefix, []
    for shared_prefix in (shared, lambda batch: pad_to_multiple(shared(batch), batch.flat["tokens"])):
        model.shared_prefix = shared_prefix
        with model.dropout_keys.set_keys(1, 2, batch.index, batch.lengths):
            found.append(run_through(model, ROWS))
    (states, gradients), (others, theirs) = found
    assert seen[0] < seen[1] == 32
    assert torch.allclose(states, others, atol=1e-5)
    for name, gradient in gradients.items():
        assert float((theirs[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-6, name


def test_a_network_in_bf16_gets_round_numbers_and_one_in_fp32_its_own(bases) -> None:
    model = load_classifier(bases("bert"), ["a", "b"], "cls", 0.0, 0)
    assert model.shared_prefix(batch_of(ROWS)) is None
    model.network.to(torch.bfloat16)
    shared_prefix = model.shared_prefix(batch_of(ROWS))
    assert shared_prefix is not None
    assert len(shared_prefix.kept) == 32
    assert expand(torch.arange(32), shared_prefix).tolist() == list(range(sum(map(len, ROWS))))


def test_nothing_is_shared_where_dropout_acts_or_rows_have_nothing_in_common(bases) -> None:
    model = load_generator(bases("llama"), 0.1).train()
    assert model.shared_prefix(batch_of(ROWS)) is None
    assert model.eval().shared_prefix(batch_of(ROWS)) is not None
    assert model.shared_prefix(batch_of([[1, 2, 3], [2, 2, 3], [3, 2, 3]])) is None
    assert model.shared_prefix(batch_of([[1, 2, 3]])) is None


def test_the_same_row_twice_costs_one(bases) -> None:
    model = load_generator(bases("llama"), 0.0).eval()
    shared_prefix = model.shared_prefix(batch_of([ROWS[0]] * 3))
    assert shared_prefix is not None
    assert len(shared_prefix.kept) == len(ROWS[0])
    with torch.no_grad():
        one, two, three = model.hidden_states(batch_of([ROWS[0]] * 3)).view(3, len(ROWS[0]), -1)
    assert torch.equal(one, two)
    assert torch.equal(two, three)


def test_what_a_base_makes_of_texts_is_the_same_with_and_without(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat sat on the mat", "the cat sat on the chair", "the cat sat", "dogs bark"]
    shared = layer_vectors(bases("llama"), texts)
    monkeypatch.setattr("luthier.models.pretrained.find_shared_prefix", lambda tokens, lengths: None)
    assert shared == pytest.approx(layer_vectors(bases("llama"), texts), abs=1e-5)


def test_states_that_are_not_shared_are_left_as_they_are() -> None:
    states = torch.randn(4, 2)
    assert expand(states, None) is states


def rows_that_begin_alike(seed: int) -> list[list[int]]:
    """Twelve rows of up to 70 tokens, each of them a beginning of an earlier one, of any length, and an end of its own, which may be empty."""
    draw = random.Random(seed)
    rows = [[draw.randrange(3, 60) for _ in range(draw.randrange(1, 40))]]
    for _ in range(11):
        before = draw.choice(rows)
        rows.append(before[: draw.randrange(1, len(before) + 1)] + [draw.randrange(3, 60) for _ in range(draw.randrange(0, 30))])
    return rows


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", DECODERS)
def test_tokens_that_others_share_are_looked_at_and_do_not_ask_again(
    bases, family: str, seed: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = load_generator(bases(family), 0.0).train(), rows_that_begin_alike(seed)
    monkeypatch.setattr("luthier.models.packed._fused_pays", lambda query, laid: fused)
    asked: list[int] = []

    def note(*given: Any) -> packing.Packing:
        made = packing.pack(*given)
        asked.append(sum(len(group.queries.position) for group in made.groups))
        return made

    monkeypatch.setattr(pretrained, "pack", note)
    states, gradients = run_through(model, rows)
    monkeypatch.setattr(model, "shared_prefix", lambda batch: None)
    plain, expected = run_through(model, rows)
    assert asked == [len({tuple(row[: place + 1]) for row in rows for place in range(len(row))}), sum(map(len, rows))]
    assert asked[0] < 0.9 * asked[1]
    assert torch.allclose(states, plain, atol=1e-5)
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-7, name
