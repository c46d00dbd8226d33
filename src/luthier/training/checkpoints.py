"""Checkpoints: written aside, hashed, then put in place; damaged ones are passed over.

A checkpoint is a folder: `model.safetensors` (the precise weights, the persistent buffers, and of an embedding the tokens whose rows are kept),
`optimizer.safetensors` (of those that a run can go on from), `state.json` (the step, and `state` of the `Evaluator`) and `manifest.json` (the hashes).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core.errors import DiskFull, RunError
from luthier.core.run import Run, disk_problem, file_hash, name_disk_errors, write_file
from luthier.optim.masters import Masters

LONG = 1.0
"""Seconds from which on waiting for the disk is written down as an event."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes were found right.

    Args:
        folder: where it is.
        state: step, best evaluation, early stopping.
    """

    folder: Path
    state: dict[str, Any]

    @property
    def full(self) -> bool:
        """Whether a run can go on from it (otherwise it holds weights only)."""
        return (self.folder / "optimizer.safetensors").exists()

    def restore(self, masters: Masters) -> None:
        """Put the weights and the persistent buffers, and where there is one the optimizer's state, back."""
        state = load_file(self.folder / "optimizer.safetensors") if self.full else None
        masters.restore(load_file(self.folder / "model.safetensors"), state)


def disk_bytes(masters: Masters) -> tuple[int, int]:
    """How much of the disk the checkpoints of a run take.

    Args:
        masters: weights and optimizer.

    Returns:
        Bytes in a short run, which keeps its best weights alone; and at most, in a run that is long enough to be resumed.
    """
    buffers = sum(tensor.nbytes for tensor in masters.buffers().values())
    weights = sum(tensor.nbytes for tensor in masters.weights().values())
    full = 3 * weights + buffers  # and two moments
    short = 2 * (weights + buffers)  # the best, and a better one that is being written
    return short, weights + buffers + 3 * full  # the best; two to resume from, and one that is being written


def folder_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


def save(run: Run, masters: Masters, state: dict[str, Any], full: bool, buffers: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint.

    Args:
        run: its folder.
        masters: weights and optimizer.
        state: step, best evaluation, early stopping; JSON.
        full: whether the optimizer's state is kept too.
        buffers: the network's persistent ones at this step; None: as they are now.

    Raises:
        DiskFull: there is no space; earlier checkpoints are as they were.
        DiskFailed: the disk reports a fault; earlier checkpoints are as they were.
    """
    final = run.folder / "checkpoints" / folder_name(state["step"])
    if final.exists() and not full:
        return final
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    buffers = masters.buffers() if buffers is None else buffers
    weights, moments = masters.weights() | buffers | masters.tokens(), masters.state() if full else {}
    needed = sum(tensor.nbytes for tensor in [*weights.values(), *moments.values()])
    with name_disk_errors(str(final)):
        final.parent.mkdir(exist_ok=True)
    free = shutil.disk_usage(final.parent).free
    if free < needed * 1.05 + (1 << 20):
        raise DiskFull(
            f"a checkpoint needs {needed / 1e6:,.0f} MB and {run.folder} has {free / 1e6:,.0f} MB left",
            f"free some space, then `luthier resume {run.folder}`: nothing already written is lost",
        )
    try:
        with name_disk_errors(str(final)):
            aside.mkdir()
            _write_tensors(weights, aside / "model.safetensors")
            if full:
                _write_tensors(moments, aside / "optimizer.safetensors")
            (aside / "state.json").write_text(json.dumps(state))
            manifest = {file.name: file_hash(file) for file in sorted(aside.iterdir())}
            (aside / "manifest.json").write_text(json.dumps({"step": state["step"], "sha256": manifest}, indent=2))
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            if final.exists():
                final.rename(final.with_name(f".{final.name}.old"))
            aside.rename(final)
            _sync(final.parent)
    except SafetensorError as problem:
        code = re.search(r"os error (\d+)", str(problem))  # safetensors says the number in words only
        error = disk_problem(int(code[1]) if code else errno.ENOSPC, str(final))
        raise error or RunError(
            f"{final} could not be written: {problem}", f"look at the disk, then `luthier resume {run.folder}`"
        ) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(final.with_name(f".{final.name}.old"), ignore_errors=True)
    return final


class Writer:
    """Writes a checkpoint beside the next step: one at a time, and the weights wait for it before they move.

    So no weights are copied, and what is written is what stood there when it was asked for. Persistent buffers move with each forward pass, not with the
    weights, so they are copied when it is asked for.

    Args:
        run: its folder.
        masters: weights and optimizer.
    """

    def __init__(self, run: Run, masters: Masters) -> None:
        self.run, self.masters = run, masters
        self.cost = 0.0
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        waiting = weakref.WeakMethod(self.wait)  # the weights hold no reference back, so that both go when nobody needs them

        def wait() -> None:
            still = waiting()
            if still is not None:
                still()

        masters.before_moving = wait

    def save(self, state: dict[str, Any], full: bool, keep: Set[int]) -> None:
        """Begin to write a checkpoint, then delete those that are no longer needed.

        Args:
            state: step, best evaluation, early stopping; JSON.
            full: whether the optimizer's state is kept too.
            keep: steps whose checkpoints stay.

        Raises:
            DiskFull, DiskFailed: of the checkpoint before this one.
        """
        self.wait()
        buffers = self.masters.buffers()

        def write() -> None:
            began = time.monotonic()
            try:
                save(self.run, self.masters, state, full, buffers)
                tidy(self.run, keep)
            except BaseException as problem:
                self._problem = problem
            if full:
                self.cost = time.monotonic() - began

        self._thread = threading.Thread(target=write, name=folder_name(state["step"]))
        self._thread.start()

    def wait(self) -> None:
        """Until what was asked for is on the disk; where that takes long, it is said.

        Raises:
            DiskFull: there is no space; earlier checkpoints are as they were.
            DiskFailed: the disk reports a fault; earlier checkpoints are as they were.
        """
        if self._thread is None:
            return
        began = time.monotonic()
        self._thread.join()
        waited = time.monotonic() - began
        checkpoint, self._thread, problem, self._problem = self._thread.name, None, self._problem, None
        if problem is not None:
            raise problem
        if waited > LONG:
            self.run.event("waited_for_checkpoint", checkpoint=checkpoint, seconds=round(waited, 2))

    def abandon(self) -> None:
        """Wait no longer for what is being written: the process is to end at once, and the checkpoints before it are whole."""
        self._thread = None


def _write_tensors(tensors: dict[str, Any], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(folder: Path) -> Checkpoint:
    """Check every file against the manifest.

    Raises:
        RunError: what is wrong with it.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        hashes, step = manifest["sha256"], manifest["step"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{folder}: the manifest is missing or damaged") from None
    present = {file.name for file in folder.iterdir()} - {"manifest.json"}
    if present != set(hashes):
        raise RunError(f"{folder}: holds {sorted(present)}, the manifest names {sorted(hashes)}")
    try:
        for name, expected in hashes.items():
            if file_hash(folder / name) != expected:
                raise RunError(f"{folder / name} is damaged: its hash is not the manifest's")
        state = json.loads((folder / "state.json").read_text())
    except OSError as problem:
        raise RunError(f"{folder} cannot be read: {problem.strerror}") from problem
    if state["step"] != step or folder.name != folder_name(step):
        raise RunError(f"{folder}: the manifest is of step {step}, the state of step {state['step']}")
    return Checkpoint(folder, state)


def steps_kept(run: Run) -> list[int]:
    """The steps that have a checkpoint, newest first."""
    return sorted((int(folder.name[5:]) for folder in (run.folder / "checkpoints").glob("step-*")), reverse=True)


def newest(run: Run) -> Checkpoint | None:
    """The newest checkpoint a run can go on from; damaged ones are passed over with an event.

    Raises:
        RunError: there are full checkpoints, and all of them are damaged.
    """
    rejected = []
    for leftover in (run.folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in steps_kept(run):
        folder = run.folder / "checkpoints" / folder_name(step)
        weights_only = folder.is_dir() and not (folder / "optimizer.safetensors").exists() and _names_no_optimizer(folder)
        if weights_only:
            continue
        try:
            return verify(folder)
        except RunError as problem:
            rejected.append(problem.message)
            run.event("checkpoint_rejected", checkpoint=folder.name, reason=problem.message)
    if rejected:
        raise RunError("no checkpoint is whole:\n  " + "\n  ".join(rejected), "restore one from a copy, or start again in another folder")
    return None


def _names_no_optimizer(folder: Path) -> bool:
    try:
        return "optimizer.safetensors" not in json.loads((folder / "manifest.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def tidy(run: Run, keep: Set[int], full_kept: int = 2) -> None:
    """Delete checkpoints that are neither among the newest full ones nor in `keep`."""
    full = [step for step in steps_kept(run) if (run.folder / "checkpoints" / folder_name(step) / "optimizer.safetensors").exists()]
    for step in steps_kept(run):
        if step not in keep and step not in full[:full_kept]:
            shutil.rmtree(run.folder / "checkpoints" / folder_name(step), ignore_errors=True)


def keep_best_only(run: Run, best: int) -> None:
    """Delete the checkpoints of a run that is over but the best, of which the weights stay, in full precision, without the optimizer's state.

    Args:
        run: its folder.
        best: the step of its best evaluation.
    """
    tidy(run, {best}, full_kept=0)
    folder = run.folder / "checkpoints" / folder_name(best)
    state = folder / "optimizer.safetensors"
    if state.exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"].pop(state.name, None)
        write_file(folder / "manifest.json", json.dumps(manifest, indent=2))
        state.unlink()
