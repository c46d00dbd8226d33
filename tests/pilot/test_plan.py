"""What a run will take, before it is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import luthier
from luthier.core.errors import DoesNotFit, LuthierError
from luthier.pilot import plan as place
from luthier.training.forecast import _over_all
from tests.conftest import rows


@pytest.fixture(scope="module")
def planned(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120)))
    )
    set = ["training.batch_size=8", "training.epochs=2", "training.evaluations_per_epoch=2"]
    return luthier.run(folder / "rows.jsonl", base=str(bases("bert").folder), out=folder / "run", set=set, plan_only=True).folder


@pytest.fixture(scope="module")
def forecast(planned: Path) -> Any:
    """Of the experiment as it is planned."""
    return luthier.plan(planned, seconds=1).forecast


def test_a_plan_counts_what_the_run_then_does(planned: Path, forecast: Any, tmp_path: Path) -> None:
    run = luthier.train(planned / "experiment.yaml", set=["training.patience=100"], out=tmp_path / "run", force=True)
    lines = run.lines("metrics.jsonl")
    taken = [line for line in lines if "tokens" in line]
    assert forecast["steps"] == len(taken)
    assert forecast["tokens"] == sum(line["tokens"] for line in taken)
    assert forecast["evaluations"] == sum("evaluation" in line for line in lines)
    kept = load_file(next((run.folder / "checkpoints").glob("step-*")) / "model.safetensors")
    assert (
        forecast["moving"] == sum(tensor.numel() for tensor in kept.values() if tensor.is_floating_point()) < forecast["parameters"]
    )  # not the vectors of tokens that no row has
    assert 100e6 < forecast["memory"] < 3e9  # torch alone holds that much
    assert forecast["fixed"] <= forecast["memory"]
    weights = [*run.folder.rglob("model.safetensors"), *run.folder.rglob("optimizer.safetensors")]
    assert forecast["disk"] >= 0.99 * sum(file.stat().st_size for file in weights) > 0  # the files' headers are not reckoned


def test_freezing_and_adapters_move_fewer_parameters(planned: Path, forecast: Any) -> None:
    few = luthier.plan(planned, set=["adaptation.kind=lora", "adaptation.rank=2"], seconds=1).forecast
    assert few["moving"] < forecast["moving"] / 3


def test_what_cannot_fit_is_refused_with_what_would(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.training.devices.available_memory", lambda: 100 << 20)
    with pytest.raises(DoesNotFit, match=r"the run needs about [\d.]+ [MG]B, and 105 MB are free"):
        luthier.plan(planned, seconds=1)
    said = {"fixed": 4e9, "a_token": 1e6, "at_once": 4096, "moving": 135_000_000, "memory": 7.6e9}
    found = dict(place._proposals(said, int(7e9)))
    (pieces,) = (change for change in found if change.startswith("training.micro_batch_tokens="))
    assert 4e9 + int(pieces.partition("=")[2]) * 1e6 <= 0.9 * 7e9
    assert found["adaptation.kind=lora"] == pytest.approx(7.6e9 - 0.98 * 12 * 135e6)
    assert all(need <= 0.9 * 7e9 for need in found.values())


def test_a_fault_in_the_child_is_told_as_it_is(planned: Path) -> None:
    with pytest.raises(LuthierError, match="there is no base 'nothing-such'"):
        luthier.plan(planned, set=["model.base=nothing-such"], seconds=1)


def test_the_line_through_the_measured_steps_gives_back_a_line_and_one_slow_step_does_not_turn_it() -> None:
    sizes = [100, 200, 300, 400, 500, 600]
    tokens = np.array([350] * 100)
    exact = [(size, 0.1 + 0.001 * size) for size in sizes]
    assert _over_all(exact, tokens)[0] == pytest.approx(100 * (0.1 + 0.35))
    slow = [(size, seconds * (3 if size == 400 else 1)) for size, seconds in exact]
    assert _over_all(slow, tokens)[0] == pytest.approx(100 * (0.1 + 0.35), rel=0.1)
