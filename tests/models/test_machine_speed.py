"""The speed of the machine is looked for once, in the precision that is the faster one, and scales what a budget carries."""

from __future__ import annotations

import pytest
import torch

from luthier.models import machine_speed


@pytest.fixture(autouse=True)
def looked_for_anew() -> None:
    machine_speed.training_operations_per_second.cache_clear()


@pytest.mark.parametrize("idle, processors", [(None, 4.0), (0.1, 1.0), (1.9, 1.9)])
def test_the_faster_precision_and_the_idle_processors_count(monkeypatch: pytest.MonkeyPatch, idle: float | None, processors: float) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_speed, "_product_speed", lambda dtype, device: {torch.float32: 3e9, torch.bfloat16: 8e9}[dtype])
    monkeypatch.setattr(machine_speed, "free_processors", lambda *given, **more: idle)
    monkeypatch.setattr(machine_speed, "allowed_processors", lambda: 4.0)
    assert machine_speed.training_operations_per_second() == pytest.approx(machine_speed.EFFICIENCY * 8e9 * processors)
    assert machine_speed.operations_in(60) == pytest.approx(0.5 * 60 * machine_speed.EFFICIENCY * 8e9 * processors)


def test_this_machine_has_a_speed_and_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    found = machine_speed.training_operations_per_second()
    assert 1e7 < found < 1e16
    assert machine_speed.training_operations_per_second() == found
    assert torch.get_num_threads() == before
