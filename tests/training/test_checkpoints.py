"""What is kept comes back bit for bit, the best is never lost, and a disk that fails is named."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import luthier
from luthier.core.errors import DiskFailed, DiskFull
from luthier.core.run import Run, write_file
from luthier.training import checkpoints
from luthier.training.steps import steps
from tests.training.test_steps import work_for

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


class Weights:
    """As much of `Masters` as a checkpoint asks for."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def weights(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def buffers(self) -> dict[str, torch.Tensor]:
        return {}

    def tokens(self) -> dict[str, torch.Tensor]:
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        return {f"{name}/step": torch.tensor(3.0) for name in self.tensors}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    made = (torch.randn(shape, generator=generator) * 100).to(draw(st.sampled_from(DTYPES)))
    if made.dtype.is_floating_point and made.numel():
        made.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), -0.0, 1e-40]))
    return made.transpose(0, -1) if made.ndim > 1 and draw(st.booleans()) else made


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abc._0", min_size=1), tensors(), min_size=1, max_size=4))
def test_what_is_kept_comes_back_bit_for_bit(tmp_path: Path, kept: dict[str, torch.Tensor]) -> None:
    run = Run(tmp_path / os.urandom(6).hex())
    run.folder.mkdir()
    folder = checkpoints.save(run, Weights(kept), {"step": 1}, full=True)  # type: ignore[arg-type]
    found = load_file(checkpoints.verify(folder).folder / "model.safetensors")
    assert set(found) == set(kept)
    for name, tensor in kept.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["full", "best", "kill"]), min_size=1, max_size=25))
def test_the_best_and_the_newest_full_one_are_there_after_any_order_of_saving_and_tidying(tmp_path: Path, asked: list[str]) -> None:
    run = Run(tmp_path / os.urandom(6).hex())
    run.folder.mkdir()
    best, full = 0, []
    for step, what in enumerate(asked, 1):
        checkpoints.save(run, Weights({"w": torch.tensor([float(step)])}), {"step": step}, full=what != "best")  # type: ignore[arg-type]
        best, full = (step, full) if what == "best" else (best, [*full, step])
        if what == "kill":  # between writing and tidying
            continue
        checkpoints.tidy(run, keep={best})
    kept = set(checkpoints.steps_kept(run))
    assert not best or best in kept
    assert set(full[-2:]) <= kept
    newest = checkpoints.newest(run)
    assert (newest.state["step"] if newest else None) == (full[-1] if full else None)
    assert float(load_file(run.folder / "checkpoints" / checkpoints.folder_name(max(kept)) / "model.safetensors")["w"]) == max(kept)


@pytest.mark.parametrize(("code", "kind", "said"), [(errno.EIO, DiskFailed, "the disk failed"), (errno.EROFS, DiskFailed, "read-only"), (errno.EDQUOT, DiskFull, "no space")])  # fmt: skip
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_disk_that_fails_is_named_and_the_checkpoint_before_it_is_whole(tmp_path, monkeypatch, code, kind, said, call) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    checkpoints.save(run, Weights({"w": torch.ones(3)}), {"step": 1}, full=True)  # type: ignore[arg-type]

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fails)
    with pytest.raises(kind, match=said):
        checkpoints.save(run, Weights({"w": torch.zeros(3)}), {"step": 2}, full=True)  # type: ignore[arg-type]
    if call == "fsync":
        with pytest.raises(kind, match=said):
            write_file(run.folder / "experiment.yaml", "x")
    monkeypatch.undo()
    newest = checkpoints.newest(run)
    assert newest is not None
    assert newest.state["step"] == 1
    assert not list((run.folder / "checkpoints").glob(".*"))
    assert not (run.folder / "experiment.yaml").exists()


def test_a_checkpoint_that_the_disk_cannot_read_is_passed_over_with_an_event(tmp_path, monkeypatch) -> None:
    run = Run(tmp_path)
    for step in (1, 2):
        checkpoints.save(run, Weights({"w": torch.ones(3)}), {"step": step}, full=True)  # type: ignore[arg-type]
    whole = checkpoints.file_hash

    def unreadable(path: Path) -> str:
        if path.parent.name == "step-000002":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(path)

    monkeypatch.setattr(checkpoints, "file_hash", unreadable)
    newest = checkpoints.newest(run)
    assert newest is not None
    assert newest.state["step"] == 1
    assert "Input/output error" in run.events_named("checkpoint_rejected")[0]["reason"]


class Slow:
    """A disk that takes its time, and knows how many write to it at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.most, own = 0, 0, checkpoints.save

        def save(*given: Any, **more: Any) -> Path:
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(seconds)
            found = own(*given, **more)
            self.now -= 1
            return found

        monkeypatch.setattr(checkpoints, "save", save)


def test_a_checkpoint_holds_the_weights_of_its_own_step_however_slow_the_disk(bases, records, tmp_path, monkeypatch) -> None:
    disk, work, run = Slow(monkeypatch, 0.2), work_for(bases, records, "classification", training__steps=6), Run(tmp_path)
    writer, then = checkpoints.Writer(run, work.masters), {}
    threads = threading.active_count()
    for step in steps(work):
        then[step.number] = {name: master.clone() for name, master in work.masters.weights().items()}
        writer.save({"step": step.number}, full=True, keep=set(range(10)))
        assert threading.active_count() <= threads + 1
    writer.wait()
    assert disk.most == 1
    assert checkpoints.steps_kept(run) == [6, 5, 4, 3, 2, 1]
    for number, weights in then.items():
        kept = load_file(checkpoints.verify(tmp_path / "checkpoints" / checkpoints.folder_name(number)).folder / "model.safetensors")
        assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items())


def test_waiting_long_for_the_disk_is_an_event(tmp_path, monkeypatch) -> None:
    Slow(monkeypatch, 0.3)
    monkeypatch.setattr(checkpoints, "LONG", 0.0)  # any waiting is long: beside a busy program the disk may be done when we come
    writer = checkpoints.Writer(Run(tmp_path), Weights({"w": torch.ones(3)}))  # type: ignore[arg-type]
    writer.save({"step": 7}, full=True, keep=set())
    writer.wait()
    (event,) = Run(tmp_path).events_named("waited_for_checkpoint")
    assert event["checkpoint"] == "step-000007"


def test_a_disk_that_fails_beside_a_step_stops_the_run_at_that_step(bases, table, tmp_path, monkeypatch) -> None:
    """The fault comes up in a thread; the run says it all the same, and goes on later to the same bits."""
    asked: dict[str, Any] = {
        "base": str(bases("bert").folder),
        "force": True,
        "set": ["training.steps=12", "training.evaluations_per_epoch=9"],
    }
    whole = luthier.run(table, out=tmp_path / "whole", **asked)
    own, calls = checkpoints.save, []

    def fails_once(*given: Any, **more: Any) -> Path:
        calls.append(given)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return own(*given, **more)

    monkeypatch.setattr(checkpoints, "save", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        luthier.run(table, out=tmp_path / "failed", **asked)
    assert not Run(tmp_path / "failed").events_named("trained")
    again = luthier.resume(tmp_path / "failed")
    for name in ("bundle/model.safetensors", "metrics.jsonl"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
