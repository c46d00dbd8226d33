"""Seconds add up over the commands of a run, also over those that were killed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from luthier.core.run import Clock, Run
from luthier.pilot.stages import elapsed
from luthier.pilot.stages.elapsed import count_seconds, earlier_seconds
from tests import processes

KILLED = """
import os, sys, time
from luthier.core.run import Clock, Run
from luthier.pilot.stages import elapsed
elapsed.EVERY = 0.05
run = Run.open(sys.argv[1])
with elapsed.count_seconds(run, Clock(before=10.0), elapsed.earlier_seconds(run)):
    time.sleep(0.5)
    os.kill(os.getpid(), 9)
"""


def test_the_seconds_of_a_killed_command_count_up_to_its_last_note(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").touch()
    run = Run.open(tmp_path)
    for times in (1, 2, 3):
        done = processes.run("-c", KILLED, tmp_path)
        assert done.returncode == -signal.SIGKILL
        assert 10.2 * times < earlier_seconds(run) < 12 * times
    assert not run.events_named("interrupted")


def test_a_command_that_ends_leaves_all_its_seconds(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert earlier_seconds(run) == 0
    with count_seconds(run, Clock(before=5.0), 2.0):
        time.sleep(0.01)
    assert 7.0 <= earlier_seconds(run) < 8.0
    assert [file.name for file in tmp_path.iterdir()] == [elapsed.FILE]


def test_a_run_of_a_version_that_kept_no_seconds_has_those_of_its_interruptions(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.event("interrupted", seconds=3.5)
    run.event("interrupted", seconds=4.0)
    assert earlier_seconds(run) == 7.5
    (tmp_path / elapsed.FILE).write_text(json.dumps(["damaged"]))
    assert earlier_seconds(run) == 7.5
