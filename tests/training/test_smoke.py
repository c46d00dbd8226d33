"""The small run speaks up for each planted fault, and stays silent for healthy work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from luthier.core.interfaces import Silent
from luthier.training.smoke import smoke
from tests.training.test_steps import work_for


def checks(work: Any) -> tuple[bool, set[str]]:
    found = smoke(work, Silent(), None, None)
    return found.go, {finding.check for finding in found.findings if finding.severity in ("warning", "stop")}


def test_healthy_work_gets_go_and_no_warning(bases, records) -> None:
    assert checks(work_for(bases, records, "classification", training__steps=200)) == (True, set())


def test_targets_that_are_all_masked_get_no_go(bases, chats) -> None:
    work = work_for(bases, chats, "chat", training__steps=200)
    work.train = [replace(example, target=[False] * len(example.tokens)) for example in work.train]
    go, spoke = checks(work)
    assert not go
    assert "smoke.masked" in spoke


def test_a_head_that_cannot_move_gets_no_go(bases, records) -> None:
    work = work_for(bases, records, "classification", training__steps=200)
    for module in work.model.head:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    work.experiment = work.experiment.replace("adaptation.kind", "lora")  # full would set it moving again at each step
    go, spoke = checks(work)
    assert not go
    assert "smoke.head" in spoke


def test_a_rate_that_moves_nothing_gets_no_go(bases, records) -> None:
    go, spoke = checks(work_for(bases, records, "classification", training__steps=200, optimizer__lr=1e-14))
    assert not go
    assert "smoke.still" in spoke


def test_a_rate_a_hundred_times_too_high_gets_no_go(bases, records) -> None:
    go, spoke = checks(work_for(bases, records, "classification", training__steps=200, optimizer__lr=3.0))
    assert not go
    assert spoke & {"smoke.rate", "smoke.finite"}
