"""The number of threads decides bits: a run is resumed, and made again, on as many as it was begun on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.core.errors import Stopped
from luthier.core.run import Run
from luthier.experiment import Experiment
from tests.core.test_threads import WAIT, answer, begin, keep_busy, say
from tests.pilot.test_run import QUICK, weights

SHORT = [*QUICK, "training.dtype=float32", "training.steps=6", "training.evaluations_per_epoch=2"]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1, "a run gives back the threads that it found"
    torch.set_num_threads(before)


def record(run: Run) -> int:
    return Experiment.load(run.folder / "experiment.yaml").environment["threads"]


def test_a_run_that_began_on_two_threads_is_resumed_and_made_again_on_two_where_one_is_usual(
    bases: Any, table: Path, tmp_path: Path
) -> None:
    """The first of them stops a run on two threads, the others begin on one."""
    asked: dict[str, Any] = {"base": str(bases("bert", 2).folder), "set": SHORT, "force": True}

    def stop(step: Any) -> None:
        used.append(torch.get_num_threads())
        if step.number == 3:
            raise Stopped(signal.SIGTERM)

    used: list[int] = []
    torch.set_num_threads(2)
    whole = luthier.run(table, out=tmp_path / "whole", **asked)
    with pytest.raises(Stopped):
        luthier.run(table, out=tmp_path / "run", watchers=[stop], **asked)
    torch.set_num_threads(1)
    resumed = luthier.resume(tmp_path / "run", watchers=[lambda step: used.append(torch.get_num_threads())])
    again = luthier.train(whole.folder / "experiment.yaml", out=tmp_path / "again", force=True)
    assert used == [2] * 6
    assert record(whole) == record(resumed) == record(again) == 2
    assert whole.verdict is not None
    for made in (resumed, again):
        assert weights(made.folder) == weights(whole.folder)
        assert made.lines("metrics.jsonl") == whole.lines("metrics.jsonl")
        assert made.verdict is not None
        assert {**made.verdict, "seconds": 0} == {**whole.verdict, "seconds": 0}
        assert not made.events_named("inexact")
        (event,) = made.events_named("threads")
        assert (event["number"], event["instead_of"], event["why"]) == (2, 1, "recorded")
    assert not whole.events_named("threads")


def test_what_was_trained_elsewhere_is_trained_here_on_what_is_usual_here(bases: Any, table: Path, tmp_path: Path) -> None:
    run = luthier.run(table, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=SHORT, force=True)
    experiment = Experiment.load(run.folder / "experiment.yaml")
    elsewhere = experiment.model_copy(update={"environment": {**experiment.environment, "processor": "another", "threads": 64}})
    assert record(luthier.train(elsewhere, out=tmp_path / "again", force=True)) == 1


CHOOSES = f"""
import sys
from pathlib import Path
if sys.argv[2] == "torch":
    import torch
from luthier.core.collector import collect_seldom
collect_seldom()
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.pilot.stages.set_threads import set_threads
{WAIT}
class Shown(NullReporter):
    def say(self, line):
        print(line)
for turn in range(2):
    set_threads(Run(Path(sys.argv[1])), Shown(), None, 1)
import torch
print(torch.get_num_threads())
"""
"""What a run does before its small run, and once more on resume."""


@pytest.mark.parametrize(("first", "count", "times"), [("torch", "2", 1), ("torch", "1", 0), ("luthier", "2", 0)])
def test_it_is_said_once_where_torch_came_first_and_idle_threads_spin_as_long_as_they_like(
    tmp_path: Path, first: str, count: str, times: int
) -> None:
    shown = say(CHOOSES, str(tmp_path), first, OMP_NUM_THREADS=count).stdout
    several = shown.split()[-1] != "1"  # a machine with one processor has nobody to wait for
    assert shown.count("torch was loaded before luthier") == len(Run(tmp_path).events_named("spin_unbounded")) == (times if several else 0)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell which processors are idle")
def test_beside_busy_programs_a_run_says_that_it_takes_fewer_threads(tmp_path: Path) -> None:
    with begin(CHOOSES, str(tmp_path), "luthier") as process, keep_busy():
        *shown, used = answer(process).splitlines()
    assert used == "1"
    events = Run(tmp_path).events_named("threads")
    assert len(events) == len(shown)  # none where there is one processor
    for event, line in zip(events, shown):
        assert event["number"] == 1 < event["instead_of"]
        assert event["why"] == "busy"
        assert line == f"another program is busy: training with 1 of {event['instead_of']} threads"
