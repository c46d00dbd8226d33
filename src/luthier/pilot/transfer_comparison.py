"""The models of `luthier transfer`: which there are to train, which are finished, and which the time does not suffice for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.interfaces import Reporter
from luthier.core.run import Clock, Run
from luthier.core.types import Step
from luthier.core.words import duration, plural
from luthier.data.dataset import Dataset
from luthier.pilot.transfer_cells import Start, train_cell, with_rows


class BudgetSpent(Exception):
    """The time is over: the model that is being trained is given up."""


@dataclass(frozen=True)
class Plan:
    """Which models there are to train.

    Args:
        starts: as named.
        sizes: training rows, 0 for all; the fewest first.
        seeds: from 1.
        most_test: test rows, at most.
        changes: to every experiment, the metric among them.
    """

    starts: list[Start]
    sizes: list[int]
    seeds: int
    most_test: int
    changes: list[str]

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Rows and seed: all starts on the same rows."""
        return [(rows, seed) for seed in range(1, self.seeds + 1) for rows in self.sizes]


class Comparison:
    """The models of a plan at work; those that are finished are read from their files once.

    Args:
        place: the folder, with cells/.
        dataset: all rows.
        plan: which models.
        unusable: name of a start → why it cannot serve the rows; what a training finds out joins it.
        seconds: for everything; None where there is no limit.
        clock: since when.
        reporter: shows progress.
    """

    def __init__(
        self, place: Run, dataset: Dataset, plan: Plan, unusable: Mapping[str, str], seconds: float | None, clock: Clock, reporter: Reporter
    ) -> None:
        self.place, self.dataset, self.plan, self.unusable = place, dataset, plan, dict(unusable)
        self.seconds, self.clock, self.reporter = seconds, clock, reporter
        self.finished: dict[tuple[str, int, int], Mapping[str, Any]] = {}
        for start in self.usable:
            for rows, seed in plan.groups:
                found = place.json(f"cells/{_cell_name(start, rows, seed)}.json")
                if found is not None:
                    self.finished[start.name, rows, seed] = found

    @property
    def usable(self) -> list[Start]:
        """The starts that can serve the rows, as far as is known."""
        return [start for start in self.plan.starts if start.name not in self.unusable]

    def train(self) -> None:
        """Train what is missing, as far as the time suffices."""
        from luthier.training.devices import configure_torch, restore_threads
        from luthier.training.watchers import Signals

        configure_torch()
        try:
            with Signals(self.reporter.say) as signals, restore_threads():
                for rows, seed in self.plan.groups:
                    self._train_group(rows, seed, signals)
        except KeyboardInterrupt:
            self.reporter.say(f"finished models are kept: type the same with --out {self.place.folder} to go on")
            raise
        shutil.rmtree(self.place.folder / "work", ignore_errors=True)

    def _train_group(self, rows: int, seed: int, signals: Any) -> None:
        """Train the starts that are missing of a group; none where not all of them are likely to be finished in time."""
        missing = [start for start in self.usable if (start.name, rows, seed) not in self.finished]
        if not missing or not self._suffices(sum(self._expect_seconds(start, rows) or 0.0 for start in missing)):
            return
        part = with_rows(self.dataset, rows, seed, self.plan.most_test)
        for start in missing:
            signals.poll()
            self.reporter.stage("train", f"{start.name} on {_group_name(rows, seed)}; {self._waiting()}")
            name = _cell_name(start, rows, seed)
            try:
                folder = self.place.folder / "work" / name
                measured = train_cell(folder, part, start, seed, self.plan.changes, self.reporter, signals, self._watch)
            except BudgetSpent:
                return
            except LuthierError as problem:
                self.unusable[start.name] = problem.message  # what is finished of it stays in the table
                self.reporter.say(f"no more models from {start.name}: {problem.message}")
                continue
            self.finished[start.name, rows, seed] = measured
            self.place.write_json(f"cells/{name}.json", {"start": start.name, "rows": rows, "seed": seed, **measured})
            self.reporter.say(f"  {measured['metric']} {measured['value']:.4f} in {duration(measured['seconds'])}")

    def _suffices(self, more: float) -> bool:
        """Whether the time suffices for so many seconds more."""
        return self.seconds is None or self.clock() + more <= self.seconds

    def _watch(self, step: Step) -> None:
        if not self._suffices(0.0):
            raise BudgetSpent

    def _list_missing(self) -> Iterator[tuple[Start, int, int]]:
        """The models that are to be trained and are not finished: start, rows, seed."""
        return ((start, *group) for group in self.plan.groups for start in self.usable if (start.name, *group) not in self.finished)

    def list_left_out(self) -> list[str]:
        """The models that the time did not suffice for, all starts of a group in one."""
        starts: dict[tuple[int, int], list[str]] = {}
        for start, rows, seed in self._list_missing():
            starts.setdefault((rows, seed), []).append(start.name)
        whole = len(self.usable)
        return [("" if len(names) == whole else f"{' and '.join(names)} on ") + _group_name(*group) for group, names in starts.items()]

    def _expect_seconds(self, start: Start, rows: int) -> float | None:
        """About how many seconds a model takes, from those of the same start that are finished; None where nothing is known yet."""
        known = [(found["training_rows"], found["seconds"]) for (name, _, _), found in self.finished.items() if name == start.name]
        if not known:
            return None
        wanted = rows or len(self.dataset.records["train"])
        nearest = min(abs(count - wanted) for count, _ in known)
        near = [(count, seconds) for count, seconds in known if abs(count - wanted) == nearest]
        # more rows have fewer passes: no more than this
        return sum(seconds * max(1.0, wanted / count) for count, seconds in near) / len(near)

    def _waiting(self) -> str:
        """How many models are left, and about how long they take."""
        expected = [self._expect_seconds(start, rows) for start, rows, _ in self._list_missing()]
        known = [seconds for seconds in expected if seconds is not None]
        left = plural(len(expected), "model")
        if not known:
            return f"{left} left"
        needed = sum(known) * len(expected) / len(known)
        return f"{left} and about {duration(needed if self.seconds is None else min(needed, self.seconds - self.clock()))} left"


def _group_name(rows: int, seed: int) -> str:
    return f"{f'{rows:,}' if rows else 'all'} rows, seed {seed}"


def _cell_name(start: Start, rows: int, seed: int) -> str:
    return f"{sha256(f'{start.name} {start.base} {start.fingerprint}'.encode()).hexdigest()[:10]}-{rows or 'all'}-{seed}"
