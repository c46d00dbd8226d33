"""What a person is told while a search works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.core.interfaces import NullReporter
from luthier.core.run import Clock
from luthier.pilot.trials.findings import RemoteProgress, SearchProgress
from luthier.studies.rungs import Decision, Rung


class Heard(NullReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def step_once(folder: Path, *steps: tuple[int, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in steps)


def test_who_waits_for_workers_hears_how_far_each_trial_has_come_and_only_what_is_new(tmp_path: Path) -> None:
    reporter = Heard()
    look = RemoteProgress(tmp_path, reporter, lambda: None, every=0.0)
    look()
    assert reporter.lines == []
    step_once(tmp_path / "trials" / "000", (1, 0.7), (2, 0.65))
    step_once(tmp_path / "trials" / "003", (1, 0.75))
    with (tmp_path / "trials" / "003" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "evaluation": {"accuracy": 0.5}}\n{"step": 2, "lo')  # a line that is being written
    look()
    assert reporter.lines == ["  at work: trial 0 step 2 (loss 0.650); trial 3 step 1 (loss 0.750)"]
    look()
    step_once(tmp_path / "trials" / "000" / "ends" / "linear-0.588", (30, 0.4))
    look()
    assert reporter.lines[1:] == ["  at work: trial 0 (linear decay, 59% of its epochs) step 30 (loss 0.400)"]


def test_it_says_nothing_before_its_time_and_passes_a_signal_on(tmp_path: Path) -> None:
    reporter = Heard()
    step_once(tmp_path / "trials" / "000", (1, 0.7))
    RemoteProgress(tmp_path, reporter, lambda: None, every=3600.0)()
    assert reporter.lines == []

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RemoteProgress(tmp_path, reporter, stop)()


@pytest.mark.parametrize(
    "kept, reasons, said",
    [
        ((2,), {0: "worse", 1: "worse"}, "trial 2 continues, stopped: 0, 1"),
        ((2, 0), {1: "worse"}, "trials 0 and 2 continue, stopped: 1"),
        ((2, 0, 1), {}, "trials 0, 1 and 2 continue, none stopped"),
    ],
)
def test_who_continues_is_a_sentence(kept: tuple[int, ...], reasons: dict[int, str], said: str) -> None:
    reporter = Heard()
    SearchProgress(reporter, Clock()).on_decision(Rung(share=0.25, trials=3, kept=len(kept)), Decision(kept, reasons))
    assert reporter.lines == [f"  after 25.0% of a run: {said}"]
