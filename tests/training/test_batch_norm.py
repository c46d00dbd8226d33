"""State beside the parameters, through the unchanged loop: the statistics of a batch norm are kept, put back and resumed to the bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.core.errors import OutOfMemory, RunError, Stopped
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.types import Batch, Loss
from luthier.optim.masters import Masters
from luthier.training import checkpoints
from luthier.training.steps import Work, steps
from luthier.training.train import Fit
from luthier.training.watchers import Checkpointer, Signals
from tests import processes
from tests.training.convolution import Images, conv_work, is_same, state_of
from tests.training.test_steps import close

TOTAL = 12
ROOT = Path(__file__).parents[2]


def fit(folder: Path, work: Work, *more: Any) -> dict[str, Any]:
    """Train in a folder, going on where it stands, and leave the model at its best."""
    folder.mkdir(exist_ok=True)
    with Signals() as signals:
        return Fit(Run(folder), work, NullReporter(), signals, more).finish()


def bytes_of(folder: Path, best: int) -> dict[str, bytes]:
    """What must not depend on when a run was interrupted."""
    names = ("metrics.jsonl", f"checkpoints/{checkpoints.folder_name(best)}/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def stop_at(number: int) -> Any:
    def watch(step: Any) -> None:
        if step.number == number:
            raise Stopped(15)

    return watch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_resumed_from_any_step_ends_with_the_same_bytes(tmp_path: Path, dtype: str) -> None:
    changes = {"training__dtype": dtype}
    straight = conv_work(**changes)
    best = fit(tmp_path / "straight", straight)["step"]
    for number in (1, 2, 3, 6, 9, 11) if dtype == "float32" else (1, 6, 11):
        folder = tmp_path / str(number)
        with pytest.raises(Stopped):
            fit(folder, conv_work(**changes), stop_at(number))
        resumed = conv_work(**changes)
        assert fit(folder, resumed)["step"] == best
        assert is_same(state_of(resumed), state_of(straight)), number
        assert bytes_of(folder, best) == bytes_of(tmp_path / "straight", best), number


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_best_weights_come_back_with_the_statistics_of_their_own_step(tmp_path: Path, dtype: str) -> None:
    work = conv_work(wrong=True, training__dtype=dtype)  # the more is learned, the worse the validation loss
    then: dict[int, dict[str, torch.Tensor]] = {}
    best = fit(tmp_path / "run", work, lambda step: then.update({step.number: state_of(work)}))["step"]
    assert best < TOTAL
    assert is_same(state_of(work), then[best])
    assert not torch.equal(then[best]["stem.1.running_mean"], then[TOTAL]["stem.1.running_mean"])


def kill(folder: Path, moment: str) -> None:
    """Train in a process of its own, which dies at a moment without a word: a fork of this one would wait for ever for OpenMP's threads, which are not forked."""
    code = "import sys; from tests.training.test_batch_norm import train_until_killed; train_until_killed(*sys.argv[1:])"
    with processes.begin("-c", code, folder, moment, cwd=ROOT) as child:
        assert child.wait() == -signal.SIGKILL


def train_until_killed(folder: str, moment: str) -> None:
    """Train, and die at a moment."""
    calls = 0

    def die_after(count: int, own: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return own(*given, **more)

        return call

    Checkpointer.__call__ = lambda self, step: self.save(step.number)  # after each step, however long it takes
    if moment == "in a forward pass":
        Images.loss = die_after(7, Images.loss)
    elif moment == "in the optimizer's step":
        Masters.copy_to_model = die_after(5, Masters.copy_to_model)
    elif moment == "while a checkpoint is written":
        checkpoints._write_tensors = die_after(6, checkpoints._write_tensors)
    elif moment == "before a checkpoint is put in its place":
        checkpoints._sync = die_after(17, checkpoints._sync)
    elif moment == "in an evaluation":
        Images.score = die_after(3, Images.score)
    fit(Path(folder), conv_work(wrong=True))


MOMENTS = (
    "in a forward pass",
    "in the optimizer's step",
    "while a checkpoint is written",
    "before a checkpoint is put in its place",
    "in an evaluation",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_goes_on_to_the_same_bytes_where_the_best_checkpoint_is_not_the_last(tmp_path: Path, moment: str) -> None:
    straight, resumed = conv_work(wrong=True), conv_work(wrong=True)
    best = fit(tmp_path / "straight", straight)["step"]
    kill(tmp_path / "killed", moment)
    assert not Run(tmp_path / "killed").events_named("trained")
    assert fit(tmp_path / "killed", resumed)["step"] == best < TOTAL
    assert is_same(state_of(resumed), state_of(straight))
    assert bytes_of(tmp_path / "killed", best) == bytes_of(tmp_path / "straight", best)


def test_statistics_that_are_left_out_of_a_checkpoint_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path, conv_work(), stop_at(5))
    newest = checkpoints.newest(Run(tmp_path))
    assert newest is not None
    found = load_file(newest.folder / "model.safetensors")
    assert found["stem.1.running_mean"].dtype == torch.float32
    assert int(found["stem.1.num_batches_tracked"]) == 5
    with monkeypatch.context() as patch:
        patch.setattr(Masters, "buffers", lambda self: {})
        with pytest.raises(Stopped):
            fit(tmp_path / "planted", conv_work(), stop_at(5))
    with pytest.raises(RunError, match=r"nothing was kept of stem\.1\.running_mean"):
        fit(tmp_path / "planted", conv_work())


def test_a_checkpoint_holds_the_statistics_of_its_own_step_however_slow_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step's forward pass moves them while the checkpoint is still being written."""
    own = checkpoints.save

    def slow(*given: Any, **more: Any) -> Path:
        time.sleep(0.1)
        return own(*given, **more)

    monkeypatch.setattr(checkpoints, "save", slow)
    work, run, then = conv_work(), Run(tmp_path), {}
    writer = checkpoints.Writer(run, work.masters)
    for step in steps(work):
        then[step.number] = work.masters.buffers()
        writer.save({"step": step.number}, full=True, keep=set(range(TOTAL + 1)))
    writer.wait()
    for number, buffers in then.items():
        kept = load_file(tmp_path / "checkpoints" / checkpoints.folder_name(number) / "model.safetensors")
        assert is_same({name: kept[name] for name in buffers}, buffers), number


def test_a_step_that_is_taken_again_for_lack_of_memory_counts_its_statistics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(limit: int, fails: int) -> dict[str, torch.Tensor]:
        calls = 0
        own = Images.loss

        def loss(self: Images, model: Any, batch: Batch) -> Loss:
            nonlocal calls
            calls += 1
            found = own(self, model, batch)
            if calls == fails:
                raise MemoryError
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Images, "loss", loss)
            work = conv_work(splits=True, training__micro_batch_tokens=limit)
            for step in steps(work):
                if step.number == 2:
                    break
        return state_of(work)

    again = train(4, fails=2)
    assert int(again["stem.1.num_batches_tracked"]) == 2 * 4
    assert is_same(again, train(2, fails=0))


def test_a_network_that_must_not_be_split_says_so_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Images, model: Any, batch: Batch) -> Loss:
        raise MemoryError

    monkeypatch.setattr(Images, "loss", loss)
    with pytest.raises(OutOfMemory):
        next(steps(conv_work()))


def test_in_bf16_the_statistics_stay_precise_and_follow_those_of_fp32() -> None:
    low, high = conv_work(training__dtype="bfloat16"), conv_work()
    for work in (low, high):
        for step in steps(work):
            if step.number == 3:
                break
    assert low.model.network.stem[0].weight.dtype == torch.bfloat16
    for name, buffer in low.masters.buffers().items():
        assert buffer.dtype == (torch.int64 if name.endswith("tracked") else torch.float32), name
    close(low.masters.buffers(), high.masters.buffers(), 0.1)


FROZEN: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "by depth": ({"kind": "freeze", "depth": 2}, ["stem.1", "plain", "blocks.0.1", "blocks.1.1"], ["blocks.2.1"]),
    "all blocks": ({"kind": "freeze"}, ["stem.1", "plain", "blocks.0.1", "blocks.1.1", "blocks.2.1"], []),
    "gradually": ({"kind": "gradual", "over": 1.0}, ["stem.1", "plain", "blocks.0.1"], ["blocks.1.1", "blocks.2.1"]),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_batch_norm_keeps_its_statistics_to_the_bit(name: str, dtype: str) -> None:
    adaptation, still, moving = FROZEN[name]
    work = conv_work(adaptation=adaptation, training__dtype=dtype)
    before = work.masters.buffers()
    for step in steps(work):
        if step.number == TOTAL - 3:
            break
    after = work.masters.buffers()
    for module in still:
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items() if key.startswith(module)), module
    for module in moving:
        assert not torch.equal(after[f"{module}.running_mean"], before[f"{module}.running_mean"]), module


def test_a_batch_norm_is_freed_with_its_block() -> None:
    work = conv_work(adaptation={"kind": "gradual", "over": 0.9})
    seen = {step.number: int(work.model.network.plain.num_batches_tracked) for step in steps(work)}
    assert seen[3] == 0
    assert seen[TOTAL] > 0
