"""Idle threads spin briefly whoever imports us, and as many threads are taken as processors are free."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.core import threads
from luthier.studies.backends import Processes
from tests.conftest import SELDOM

LINUX = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell which processors are idle")


def without_decision(**variables: str) -> dict[str, str]:
    """An environment in which nobody has decided about threads but these variables."""
    decides = {*threads.OWN, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    return {name: value for name, value in os.environ.items() if name not in decides} | variables


def say(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a fresh process prints, in which nobody has decided about threads but these variables."""
    asked = [sys.executable, "-c", SELDOM + code, *words]
    return subprocess.run(asked, env=without_decision(**variables), capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)


WAIT = "print('ready', flush=True); sys.stdin.readline()"
"""Where a process has imported what it needs: busy programs beside that would only make it last."""


def begin(code: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    """A fresh process that has come to WAIT."""
    asked = [sys.executable, "-c", SELDOM + code, *words]
    process = subprocess.Popen(asked, env=without_decision(**variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def answer(process: subprocess.Popen[str]) -> str:
    """What it prints when it goes on."""
    shown, _ = process.communicate("\n")
    assert process.returncode == 0
    return shown


@contextlib.contextmanager
def keep_busy() -> Iterator[None]:
    """Programs at work on every processor that there is; so patient that only who counts idle processors notices."""
    loads = [subprocess.Popen([sys.executable, "-c", "import os; os.nice(19); print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) for _ in range(2 * (os.cpu_count() or 1))]  # fmt: skip
    try:
        for load in loads:
            assert load.stdout is not None
            load.stdout.readline()
        yield
    finally:
        for load in loads:
            load.kill()
            load.communicate()


def test_torchs_own_openmp_is_told_how_long_to_spin_by_the_import_and_by_the_command_line() -> None:
    for code in ("import luthier, torch", "import luthier.app.cli, torch", "import luthier.studies.worker, torch"):
        shown = say(code, OMP_DISPLAY_ENV="VERBOSE").stderr
        if "GOMP_SPINCOUNT" not in shown:
            pytest.skip("another OpenMP than GNU's")
        assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in shown


@pytest.mark.parametrize("name", threads.OWN)
def test_what_a_person_has_decided_about_waiting_stays(name: str) -> None:
    code = f"import luthier, os; print([os.environ.get(name) for name in {threads.OWN}], luthier.core.threads.bound_spinning())"
    value = "PASSIVE" if name == "OMP_WAIT_POLICY" else "77"
    assert say(code, **{name: value}).stdout.strip() == f"{[value if own == name else None for own in threads.OWN]} True"


def test_a_torch_that_was_loaded_before_is_noticed_and_processes_begun_from_there_are_bounded_all_the_same() -> None:
    code = "import torch, luthier, subprocess, sys; print(luthier.core.threads.bound_spinning(), flush=True); subprocess.run([sys.executable, '-c', 'import luthier; print(luthier.core.threads.bound_spinning())'])"  # fmt: skip
    assert say(code).stdout.split() == ["False", "True"]


def test_a_worker_spins_briefly_too(tmp_path: Path) -> None:
    workers = Processes("tests.studies.answers:waiting", 1, 1, tmp_path / "workers")
    try:
        assert workers.ask({}, 240) == {"bounded": True, "spins": os.environ["GOMP_SPINCOUNT"], "torch": False}
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, [1.5]),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, [4.0]),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a\n3:cpuset:/\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, [0.5]),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_a_containers_quota_is_found_in_both_layouts_and_in_the_groups_above(
    tmp_path: Path, files: dict[str, str], found: list[float]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._quotas(tmp_path) == found
    assert threads.allowed_processors(tmp_path) <= min([*found, os.cpu_count() or 1])


def test_idle_shares_are_added_over_the_processors_that_are_allowed() -> None:
    before = {0: (100, 200), 1: (100, 200), 2: (5, 10)}
    after = {0: (130, 230), 1: (105, 230), 2: (5, 40)}
    assert threads.idle_between(before, after, {0, 1}) == pytest.approx(1 + 5 / 30)
    assert threads.idle_between(before, before, {0, 1}) == 2
    assert threads.idle_between(before, after, {0, 7}) == 1


@LINUX
def test_beside_busy_programs_no_processor_is_free() -> None:
    with keep_busy():
        found = threads.free_processors(0.5, 1)
    assert found is not None
    assert found < 0.2 * len(os.sched_getaffinity(0)) + 0.2


CHOICE = f"""
import dataclasses, json, sys, torch
from luthier.training.devices import choose_threads, restore_threads, use_threads
{WAIT}
if sys.argv[1:]:
    torch.set_num_threads(int(sys.argv[1]))
usual = torch.get_num_threads()
with restore_threads():
    found = choose_threads()
    use_threads(found.number)
    used = torch.get_num_threads()
print(json.dumps(dict(dataclasses.asdict(found), torchs=usual, used=used, after=torch.get_num_threads())))
"""


@LINUX
def test_beside_busy_programs_one_thread_is_taken_unless_a_person_has_said_how_many() -> None:
    many = 5 + 2 * (os.cpu_count() or 1)
    with begin(CHOICE) as one, begin(CHOICE, OMP_NUM_THREADS="2") as two, begin(CHOICE, str(many)) as three, keep_busy():
        found, asked, set_before = (json.loads(answer(process)) for process in (one, two, three))
    assert found["number"] == found["used"] == 1
    assert found["after"] == found["torchs"]
    assert (found["free"] is None) == (found["usual"] == 1)
    assert (asked["number"], asked["free"]) == (asked["torchs"], None)
    assert (set_before["number"], set_before["free"]) == (many, None)
