"""Killed at any moment, any number of times: the same bytes in the end (R01–R04, R15, R31, R40–R42)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import RunError
from luthier.core.run import Run
from luthier.training import checkpoints
from tests.torture.conftest import KILLS, MODES, Server, assert_same, begin_or_resume

Straight = Callable[[str], tuple[Path, list[dict[str, Any]]]]
Experiments = Callable[[str], Path]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path, mode: str
) -> None:
    whole, said = straight(mode)
    draw = random.Random(mode)
    folder, kills, rounds = tmp_path / "run", 0, 0
    wanted = -(-KILLS // len(MODES))
    while kills < wanted and rounds < 4 * wanted:
        rounds += 1
        after = draw.randint(1, len(said)) if rounds == 1 else draw.randint(1, max(2, len(said) // 3))
        ended, _ = begin_or_resume(server, experiments(mode), folder, after=after, jitter=draw.random() * 0.02)
        if ended == 0:  # it was faster: once more from the beginning
            assert_same(whole, folder)
            shutil.rmtree(folder)
            continue
        assert ended == -signal.SIGKILL
        kills += 1
    assert kills >= wanted
    ended, words = begin_or_resume(server, experiments(mode), folder)
    assert ended == 0, words[-3:]
    assert_same(whole, folder)
    assert not Run(folder).events_named("checkpoint_rejected")


def training_part(server: Server, experiments: Experiments, tmp_path: Path) -> Path:
    """A run that stands before its first step."""
    folder = tmp_path / "before"
    ended, _ = server.run(
        do="train", experiment=str(experiments("classifier")), folder=str(folder), when=lambda word: word.get("at") == "train"
    )
    assert ended == -signal.SIGKILL
    for place in (folder / "checkpoints", folder / "validation_losses"):
        shutil.rmtree(place, ignore_errors=True)
    return folder


def test_dying_before_each_call_of_the_checkpoint_writer_costs_nothing_but_time(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path
) -> None:
    whole, _ = straight("classifier")
    before = training_part(server, experiments, tmp_path)
    shutil.copytree(before, tmp_path / "counted")
    ended, said = server.run(do="resume", folder=str(tmp_path / "counted"), fault=0)
    assert ended == 0
    calls = [word for word in said if "call" in word]
    assert {"fsync", "rename", "mkdir", "save_file", "write_text", "rmtree"} <= {word["call"] for word in calls}
    # every place within the first checkpoints (of weights alone, and full ones), then a sample of the later ones
    chosen = [word["number"] for word in calls[:60]] + [word["number"] for word in calls[60::11]]
    for number in chosen if KILLS >= 100 else chosen[::3]:
        folder = tmp_path / "run"
        shutil.copytree(before, folder)
        ended, _ = server.run(do="resume", folder=str(folder), fault=number)
        assert ended == -signal.SIGKILL
        ended, words = server.run(do="resume", folder=str(folder))
        assert ended == 0, (number, words[-3:])
        assert_same(whole, folder)
        assert not list((folder / "checkpoints").glob(".*"))
        shutil.rmtree(folder)


@pytest.mark.parametrize("file, line", [("metrics.jsonl", 2), ("events.jsonl", 1), ("timing.jsonl", 3), ("samples.jsonl", 2)])
def test_a_line_torn_in_the_middle_is_cut_off(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path, file: str, line: int
) -> None:
    before = training_part(server, experiments, tmp_path)
    ended, _ = server.run(do="resume", folder=str(before), torn=[file, line])
    assert ended == -signal.SIGKILL
    ended, words = server.run(do="resume", folder=str(before))
    assert ended == 0, words[-3:]
    assert_same(straight("classifier")[0], before)
    assert all(json.loads(row) for name in ("metrics.jsonl", "events.jsonl") for row in (before / name).read_text().split("\n") if row)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("stage", ["data", "base", "proofs", "smoke", "train", "step", "evaluation", "verdict", "bundle", "report"])
def test_a_signal_in_any_phase_stops_the_run_so_that_it_can_go_on(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path, name: str, stage: str
) -> None:
    whole, said = straight("classifier")
    if not any(word.get("at") == stage for word in said):
        pytest.fail(f"no such phase; known: {sorted({word['at'] for word in said})}")
    if KILLS < 100 and name != "SIGTERM" and stage not in ("step", "verdict"):
        pytest.skip("one signal goes through every phase; the others with `make torture`")
    number = getattr(signal, name)
    folder = tmp_path / "run"
    asked = (
        (lambda word: word.get("stage") == "train" and word["number"] == 11) if stage == "step" else (lambda word: word.get("at") == stage)
    )
    ended, _ = server.run(do="train", experiment=str(experiments("classifier")), folder=str(folder), signal_=number, when=asked)
    assert ended in (128 + number, -number, 0, 70), ended  # 0: it was finished before the signal was looked at; 70: before a handler stood
    ended, words = begin_or_resume(server, experiments("classifier"), folder)
    assert ended == 0, words[-3:]
    assert_same(whole, folder)


@pytest.mark.parametrize("allowed", [3_000, 60_000, 250_000])
def test_a_file_that_may_not_grow_stops_the_run_with_a_remedy_and_it_goes_on_later(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path, allowed: int
) -> None:
    folder = tmp_path / "run"
    ended, said = server.run(do="train", experiment=str(experiments("classifier")), folder=str(folder), file_bytes=allowed)
    assert ended == 2, said[-3:]
    assert "free some space" in said[-1]["problem"]
    ended, words = begin_or_resume(server, experiments("classifier"), folder)
    assert ended == 0, words[-3:]
    assert_same(straight("classifier")[0], folder)


def test_of_two_writers_one_wins_and_the_other_names_it(server: Server, experiments: Experiments, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    server.run(do="train", experiment=str(experiments("classifier")), folder=str(folder), after=12)
    with Run(folder).lock():
        ended, said = server.run(do="resume", folder=str(folder))
    assert ended == 2
    assert "is in use by process" in said[-1]["problem"]
    ended, _ = server.run(do="resume", folder=str(folder))  # freed by the kernel
    assert ended == 0


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": lambda content: b"",
    "one byte left": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "a bit of its head": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a bit of its middle": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 16]) + content[len(content) // 2 + 1 :]
    ),
    "a byte more": lambda content: content + b"\0",
    "deleted": lambda content: None,
}


@pytest.fixture(scope="module")
def stopped(server: Server, experiments: Experiments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two full checkpoints that was killed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    server.run(
        do="train",
        experiment=str(experiments("classifier")),
        folder=str(folder),
        when=lambda word: word.get("stage") == "train" and word["number"] == 21,
    )
    assert len(list((folder / "checkpoints").glob("step-*/optimizer.safetensors"))) >= 2
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_any_damage_to_the_newest_checkpoint_is_found_and_the_one_before_is_taken(
    stopped: Path, tmp_path: Path, file: str, damage: str
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    run = Run(tmp_path / "run")
    whole = checkpoints.newest(run)
    assert whole is not None
    place = whole.folder / file
    content = DAMAGES[damage](place.read_bytes())
    place.unlink() if content is None else place.write_bytes(content)
    found = checkpoints.newest(run)
    assert found is not None
    assert found.state["step"] < whole.state["step"]
    assert run.events_named("checkpoint_rejected")[-1]["checkpoint"] == whole.folder.name


def test_files_that_changed_places_are_found(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    run = Run(tmp_path / "run")
    whole = checkpoints.newest(run)
    assert whole is not None
    others = [file.parent for file in (run.folder / "checkpoints").glob("step-*/optimizer.safetensors") if file.parent != whole.folder]
    newer = max(others)
    shutil.copyfile(newer / "optimizer.safetensors", whole.folder / "optimizer.safetensors")
    found = checkpoints.newest(run)
    assert found is not None
    assert found.folder == newer
    for folder in others:
        (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(RunError, match="no checkpoint is whole"):
        checkpoints.newest(run)


def test_a_checkpoint_under_another_steps_name_is_not_believed(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    run = Run(tmp_path / "run")
    whole = checkpoints.newest(run)
    assert whole is not None
    shutil.copytree(whole.folder, whole.folder.with_name(checkpoints.folder_name(whole.state["step"] + 2)))
    found = checkpoints.newest(run)
    assert found is not None
    assert found.folder == whole.folder


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew_in_silence(server: Server, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("model.safetensors"):
        file.write_bytes(b"")
    ended, said = server.run(do="resume", folder=str(tmp_path / "run"))
    assert ended == 2
    assert "no checkpoint is whole" in said[-1]["problem"]


def test_memory_and_open_files_stay_as_they_are_over_two_thousand_steps(server: Server, experiments: Experiments, tmp_path: Path) -> None:
    """R37: with fifty evaluations and more than fifty checkpoints."""
    folder = tmp_path / "run"
    ended, said = server.run(do="train", experiment=str(experiments("classifier")), folder=str(folder), watched=True, every=40,
                             set=["training.steps=2000", "training.patience=1000", "training.evaluations_per_epoch=0.3"])  # fmt: skip
    assert ended == 0, said[-3:]
    held = {word["number"]: (word["memory"], word["files"]) for word in said if "memory" in word}
    warm, last = held[500], held[2000]
    assert sum(word.get("at") == "evaluation" for word in said) >= 50
    assert last[0] <= 1.02 * warm[0], held
    assert last[1] == warm[1], held


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size={size}k none {disk}
cp -r {experiment} {disk}/experiment.yaml
code=0
{python} -m luthier train {disk}/experiment.yaml --out {disk}/run --force > {said} 2>&1 || code=$?
test $code = 2
grep -q "free some space" {said}
mount -o remount,size=200m {disk}
if test -f {disk}/run/experiment.yaml; then {python} -m luthier resume {disk}/run; else rm -rf {disk}/run; {python} -m luthier train {disk}/experiment.yaml --out {disk}/run --force; fi
cp -r {disk}/run {out}
"""


@pytest.mark.parametrize("size", [64, 300, 500, 900])
def test_a_disk_that_is_full_stops_the_run_and_it_goes_on_once_there_is_space(
    server: Server, experiments: Experiments, straight: Straight, tmp_path: Path, size: int
) -> None:
    """R30: a file system of its own, in a name space of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    whole, _ = straight("classifier")
    (tmp_path / "disk").mkdir()
    script = ON_A_SMALL_DISK.format(size=size, disk=tmp_path / "disk", experiment=experiments("classifier"), python=sys.executable, said=tmp_path / "said", out=tmp_path / "out")  # fmt: skip
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)  # fmt: skip
    said = (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""
    assert done.returncode == 0, said[-2000:] + done.stdout[-2000:] + done.stderr[-2000:]
    assert_same(whole, tmp_path / "out")
