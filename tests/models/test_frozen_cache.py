"""What is computed of frozen blocks once is what they would say in every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.core.types import Example
from luthier.evaluation.score import score
from luthier.models import frozen_cache as prefix_module
from luthier.models.pretrained import load_tokenizer
from luthier.training.assemble import assemble
from luthier.training.steps import Work, steps
from tests.conftest import DECODERS, ENCODERS
from tests.training.test_steps import experiment, work_for


def freeze(bases: Any, records: Any, family: str = "bert", task: str = "classification", depth: int = 1, **more: Any) -> Work:
    base = bases(family)
    changes = {"adaptation__kind": "freeze", "adaptation__depth": depth, "model__dropout": 0.1, **more}
    asked = experiment(task, base.name, **changes)
    return assemble(asked, base, load_tokenizer(base), {"train": records[:40], "validation": records[40:]})


def gradients(work: Work) -> dict[str, torch.Tensor]:
    batch = work.objective.collate(work.train[:6], 1, 0)
    with work.model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
        work.objective.loss(work.model, batch).total.backward()
    return {name: parameter.grad for name, parameter in work.model.network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_cached_and_uncached_gradients_agree_with_dropout_on(bases, records, chats, family, depth) -> None:
    task = "chat" if family in DECODERS and depth == 1 else "classification"
    cached, plain = (freeze(bases, chats if task == "chat" else records, family, task, depth) for _ in range(2))
    assert cached.model.frozen_cache is not None
    plain.model.frozen_cache = None
    ours, theirs = gradients(cached), gradients(plain)
    assert cached.model.frozen_cache.computed
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        assert float((ours[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-8, name


def test_a_whole_run_with_and_without_agrees_and_the_frozen_weights_stay(bases, records) -> None:
    cached, plain = freeze(bases, records, training__steps=8), freeze(bases, records, training__steps=8)
    plain.model.frozen_cache = None
    before = cached.model.network.state_dict()["bert.encoder.layer.0.output.dense.weight"].clone()
    losses = [(one.loss, two.loss) for one, two in zip(steps(cached), steps(plain), strict=True)]
    assert all(one == pytest.approx(two, rel=1e-5) for one, two in losses)
    assert torch.equal(before, cached.model.network.state_dict()["bert.encoder.layer.0.output.dense.weight"])
    ours, theirs = (score(work.model, work.objective, work.validation).loss for work in (cached, plain))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_states_have_the_same_bits_whatever_was_asked_for_first(bases, records, monkeypatch) -> None:
    monkeypatch.setattr(prefix_module, "CHUNK", 64)
    forward, backward = freeze(bases, records), freeze(bases, records)
    for work, order in ((forward, 1), (backward, -1)):
        rows = [*work.train, *work.validation]
        for start in range(0, len(rows), 5)[::order]:
            work.model.frozen_cache.of(work.objective.collate(rows[start : start + 5], 1, 0), work.model)
    assert len(forward.model.frozen_cache.chunks) > 3
    assert torch.equal(forward.model.frozen_cache.states, backward.model.frozen_cache.states)


def test_rows_that_are_not_kept_go_through_all_blocks(bases, records) -> None:
    work = freeze(bases, records)
    stranger: Example = work.objective.prepare([type(records[0])(row=999, values={"text": "never seen before", "label": "a"}, source="x")])[
        0
    ]
    batch = work.objective.collate([work.train[0], stranger], 1, 0)
    assert work.model.frozen_cache.of(batch, work.model) is None
    work.model.eval()
    with torch.no_grad():
        assert work.model(batch).shape[0] == 2


def test_nothing_is_kept_where_nothing_stays_frozen_or_rows_change_or_it_is_too_much(bases, records, monkeypatch) -> None:
    assert work_for(bases, records, "classification").model.frozen_cache is None
    assert work_for(bases, records, "classification", adaptation__kind="lora").model.frozen_cache is None
    assert freeze(bases, records, augment__share=0.5).model.frozen_cache is None
    gradual = freeze(bases, records, adaptation__kind="gradual", adaptation__depth=1)
    assert gradual.model.frozen_cache.depth == 1
    monkeypatch.setattr("luthier.training.assemble.MOST", 100)
    assert freeze(bases, records).model.frozen_cache is None


def test_what_does_not_fit_into_memory_lies_in_a_file_with_the_same_bits(bases, records, monkeypatch) -> None:
    held = gradients(freeze(bases, records))
    monkeypatch.setattr(prefix_module, "IN_MEMORY", 0)
    spilled = gradients(freeze(bases, records))
    assert all(torch.equal(held[name], spilled[name]) for name in held)
