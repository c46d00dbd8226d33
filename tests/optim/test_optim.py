"""Rates over time in closed form, optimizers against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from luthier.optim import OPTIMIZERS, SCHEDULES
from luthier.optim.masters import Masters
from luthier.optim.optimizers import decays
from luthier.optim.schedules import share_done
from tests.training.test_steps import work_for

EXPECTED: dict[str, list[float]] = {
    "constant": [0.5, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.5, 1.0, 0.625, 0.25, 0.0],
    "cosine": [0.5, 1.0, 0.691342, 0.146447, 0.0],
    "wsd": [0.5, 1.0, 1.0, 0.8, 0.0],
}


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_a_schedule_is_what_its_name_says(kind: str) -> None:
    schedule = SCHEDULES[kind](warmup=0.2, **({"decay": 0.5} if kind == "wsd" else {}))
    shares = (0.1, 0.2, 0.5, 0.8, 1.0) if kind != "wsd" else (0.1, 0.2, 0.5, 0.6, 1.0)
    if kind == "cosine":
        shares = (0.1, 0.2, 0.5, 0.8, 1.0)
    assert [schedule.factor(share) for share in shares] == pytest.approx(EXPECTED[kind], abs=1e-6)


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_no_step_of_a_run_is_wasted_at_rate_zero(kind: str) -> None:
    for total in (1, 2, 7, 100):
        factors = [SCHEDULES[kind]().factor(share_done(step, total)) for step in range(total)]
        assert all(0 < factor <= 1 for factor in factors)


TORCHS: dict[str, Any] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("kind", sorted(TORCHS))
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_an_optimizer_moves_as_torchs_does(kind: str, clip: float) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 3), nn.Linear(6, 3)
    theirs.load_state_dict(ours.state_dict())
    spec = OPTIMIZERS[kind](lr=0.01, weight_decay=0.1, clip=clip)
    masters = Masters(ours, spec, torch.float32, {"weight", "bias"}, lambda name: 1.0)
    plain = TORCHS[kind]([{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}])
    for step in range(5):
        values = torch.randn(4, 6)
        with masters.collecting():
            (ours(values) ** 2).sum().backward()
        masters.step(4.0, 1.0 / (step + 1))
        plain.zero_grad()
        ((theirs(values) ** 2).sum() / 4).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for group in plain.param_groups:
            group["lr"] = 0.01 / (step + 1)
        plain.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_weight_decay_acts_on_matrices_and_not_on_biases_and_norms(bases, records) -> None:
    work = work_for(bases, records, "classification")
    names = {name: decays(name, tensor) for name, tensor in work.masters.outer.items()}
    assert not any(decay for name, decay in names.items() if "LayerNorm" in name or name.endswith("bias"))
    assert names["bert.encoder.layer.0.attention.self.query.weight"]
    assert names["bert.embeddings.word_embeddings.weight"]


def test_gradients_in_bf16_are_added_in_fp32_piece_by_piece_and_those_of_the_last_step_are_gone(monkeypatch) -> None:
    monkeypatch.setattr("luthier.optim.masters.PIECE", 10)
    monkeypatch.setattr("luthier.optim.masters.LARGE", 10)  # the weight's gradient always lies in the same memory
    torch.manual_seed(0)
    layer = nn.Linear(6, 7)
    masters = Masters(layer, OPTIMIZERS["sgd"](lr=0.1, clip=0.0, weight_decay=0.0), torch.bfloat16, {"weight", "bias"}, lambda name: 1.0)
    for _ in range(2):
        wanted = {name: torch.zeros_like(master) for name, master in masters.outer.items()}
        for values in torch.randn(3, 4, 6).bfloat16():
            with masters.collecting():
                (layer(values) ** 2).sum().backward()
            (layer(values) ** 2).sum().backward()  # outside, a gradient stays where torch puts it
            for name, parameter in layer.named_parameters():
                assert parameter.grad is not None
                wanted[name] += parameter.grad.float()
                parameter.grad = None
        for name, master in masters.outer.items():
            assert master.grad is not None and torch.equal(master.grad, wanted[name])
        masters.step(1.0, 1.0)


def test_a_step_that_learned_nothing_moves_nothing() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    masters = Masters(layer, OPTIMIZERS["adamw"](lr=0.1), torch.float32, {"weight", "bias"}, lambda name: 1.0)
    (layer(torch.randn(3, 2)).sum() * 0).backward()
    assert masters.step(0.0, 1.0) == 0.0
    assert torch.equal(layer.weight, before)
