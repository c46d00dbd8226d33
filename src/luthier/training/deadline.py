"""A time budget that is watched while a run trains: late runs get fewer steps, and their learning rate still falls to zero.

What comes after the last step (verdict, bundle, report) is called the closing; `pilot/stages/finish_time.py` knows what it takes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.core.types import Step
from luthier.core.words import duration
from luthier.optim.schedules import Cut
from luthier.training.steps import Work
from luthier.training.watchers import EvaluationSchedule

LATE = 1.03
"""A run is late when its forecast is longer than this times the budget; a little is noise."""
AIM = 0.98
"""Share of the budget at which a run that is cut should end."""
FEWEST = 8
"""Steps, at least, that tell how fast a run is."""
RECENT = 0.05
"""Share of the time left over which the speed is measured, and over which a run must stay late before it is cut."""
SHORTEST, LONGEST = 1.0, 10.0
"""Seconds between which that time lies."""


@dataclass(frozen=True)
class TimeLimit:
    """What a run must keep to.

    Args:
        seconds: the budget for everything.
        spent: seconds used so far.
        closing: seconds that verdict, bundle and report take on a machine as quick as when it was planned.
        step: seconds that a step was planned to take.
        evaluation: seconds that scoring the validation rows was planned to take.
    """

    seconds: float
    spent: Callable[[], float]
    closing: float
    step: float
    evaluation: float


class Speed:
    """How long a step takes now: from the last seconds, by tokens, without the slowest one.

    Args:
        tokens: that a step has on average.
        planned: seconds of a step, until something is known.
    """

    def __init__(self, tokens: float, planned: float) -> None:
        self.tokens, self.planned = tokens, planned
        self.seen: deque[tuple[float, int]] = deque()
        self.span = 0.0
        self.count = 0

    def note(self, seconds: float, tokens: int, span: float) -> None:
        """Add a step; those before the last `span` seconds are forgotten.

        Args:
            seconds: that it took.
            tokens: that it had.
            span: seconds to look back, and `FEWEST` steps at least.
        """
        self.seen.append((seconds, tokens))
        self.span += seconds
        self.count += 1
        while len(self.seen) > FEWEST and self.span - self.seen[0][0] > span:
            self.span -= self.seen.popleft()[0]

    @property
    def step(self) -> float:
        """Seconds that an average step takes now."""
        if len(self.seen) < 3:
            return self.planned
        slowest = max(self.seen)
        tokens = sum(tokens for _, tokens in self.seen) - slowest[1]
        return (self.span - slowest[0]) / max(tokens, 1) * self.tokens

    def over(self, steps: int) -> float:
        """Seconds that an average step takes, from the last so many steps alone.

        Args:
            steps: to look back; at least two are.
        """
        some = list(self.seen)[-max(2, steps) :]
        return sum(seconds for seconds, _ in some) / max(sum(tokens for _, tokens in some), 1) * self.tokens


class Deadline:
    """A watcher that compares the time left with what the rest of the run takes, and cuts the run where that is too much.

    It sees each step twice: as `__call__` before the evaluation, and as `after` when everybody has seen it.

    Args:
        work: of the run; its steps are cut.
        run: the event `cut_while_training` goes there before the first step under the new schedule.
        reporter: shows progress.
        schedule: when the validation rows are scored.
        limit: to keep to.
        best: the step of the best evaluation so far; 0 where there is none.
    """

    def __init__(
        self, work: Work, run: Run, reporter: Reporter, schedule: EvaluationSchedule, limit: TimeLimit, best: Callable[[], int]
    ) -> None:
        self.work, self.run, self.reporter, self.schedule, self.limit, self.best = work, run, reporter, schedule, limit, best
        tokens = sum(len(example.tokens) for example in work.train) / max(len(work.train), 1)
        self.speed = Speed(tokens * min(work.experiment.training.batch_size, len(work.train)), limit.step)
        self.evaluation = limit.evaluation
        self.last = limit.spent()
        self.late_since: float | None = None
        self.late_steps = 0

    def begin(self) -> None:
        """The training goes on after a pause, which was nobody's step."""
        self.last = self.limit.spent()

    def __call__(self, step: Step) -> None:
        """Look at the clock, before the evaluation of this step."""
        now = self.limit.spent()
        patience = min(LONGEST, max(SHORTEST, RECENT * (self.limit.seconds - now)))
        self.speed.note(now - self.last, step.tokens, patience)
        self.last = now
        if step.number >= self.work.total:
            return
        self.late_steps += 1
        if now + self.limit.closing >= self.limit.seconds * LATE:
            self._cut(step.number, now)
        elif now + self.closing_seconds(self.slower) + self._rest(step.number) <= self.limit.seconds * LATE:
            self.late_since = None
        elif self.late_since is None:
            self.late_since, self.late_steps = now, 0
        elif now - self.late_since >= patience and self.speed.count >= 3:
            self._cut(step.number, now)

    def after(self, step: Step) -> None:
        """Everybody has seen the step: what an evaluation took is no part of the next one."""
        if self.schedule.due(step.number):
            now = self.limit.spent()
            self.evaluation, self.last = now - self.last, now

    @property
    def slower(self) -> float:
        """How many times slower a step is than planned."""
        return self.speed.step / max(self.limit.step, 1e-9)

    def closing_seconds(self, slower: float) -> float:
        """Seconds that verdict, bundle and report would take now; half of the budget at most, for the closing can do with less.

        Args:
            slower: how many times slower than planned the machine is.
        """
        return max(self.limit.closing, min(self.limit.closing * slower, self.limit.seconds / 2))

    def _evaluations(self, number: int) -> int:
        """Evaluations that are still to come, the last one included."""
        if self.work.cuts and not self.work.cuts[-1].evaluations:
            return 1
        return max(1, (self.work.total - number) // self.schedule.every)

    def _rest(self, number: int) -> float:
        """Seconds until the last step and its evaluation."""
        return (self.work.total - number) * self.speed.step + self._evaluations(number) * self.evaluation

    def _cut(self, number: int, now: float) -> None:
        """Decide what is left out, write it down, and obey."""
        before = self.work.total
        # what made it late is newer than the window: the steps since then tell how fast it is now
        step = max(self.speed.step, self.speed.over(self.late_steps)) if self.late_since is not None else self.speed.step
        slower = step / max(self.limit.step, 1e-9)
        left = self.limit.seconds * AIM - now - self.closing_seconds(slower)
        cut = fitting_cut(number, before, left, step, self.evaluation, self._evaluations(number), self.best() > 0)
        why = lateness_reason(slower)
        factor = self.work.progress(number)[1]
        self.run.event("cut_while_training", step=number, total=cut.total, evaluations=cut.evaluations, before=before, factor=factor, why=why,
                       seconds=round(now, 2), budget=self.limit.seconds, a_step=step, planned=self.limit.step)  # fmt: skip
        self.work.cut(cut)
        self.late_since = None
        self.reporter.say(describe_cut(before, cut, why, self.limit.seconds))


def fitting_cut(number: int, total: int, left: float, step: float, evaluation: float, evaluations: int, has_best: bool) -> Cut:
    """What a late run leaves out: evaluations before its end first, then steps.

    Args:
        number: steps that are done.
        total: steps of the run.
        left: seconds for steps and evaluations.
        step: seconds of a step.
        evaluation: seconds of an evaluation.
        evaluations: that are still to come.
        has_best: whether there is an evaluated checkpoint.
    """
    if evaluations > 1 and (total - number) * step + evaluation <= left:
        return Cut(number, total, evaluations=False)
    keep = evaluations > 1 and evaluations * evaluation <= 0.1 * left
    cost = step * 1.02 + (evaluations * evaluation / (total - number) if keep else 0.0)
    steps = int((left - (0 if keep else evaluation)) / max(cost, 1e-9))
    if steps < 1:
        return Cut(number, number, evaluations=not has_best or left >= evaluation)
    return Cut(number, max(number, min(number + steps, total - 1)), evaluations=keep)


def is_crowded() -> bool:
    """Whether more wants to be computed on this machine than it has processors, over the last minute."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5


def lateness_reason(slower: float) -> str:
    """Why a run is late, for a person.

    Args:
        slower: how many times slower a step is than planned.
    """
    if slower > 1.2 and is_crowded():
        return "another program is using the processor"
    return f"a step takes {slower:.1f} times as long as planned" if slower > 1.05 else "there is less time left than planned"


def describe_cut(before: int, cut: Cut, why: str, budget: float) -> str:
    """A cut in one sentence."""
    purpose = f"to keep the {duration(budget)} budget"
    if cut.total == cut.step:
        return f"{why}: the run ends after step {cut.step:,} of {before:,} {purpose}"
    if cut.total == before:
        return f"{why}: the validation rows are not scored again before the end, {purpose}"
    return f"{why}: the run was cut from {before:,} to {cut.total:,} steps {purpose}"


def cuts_of(run: Run) -> list[Cut]:
    """The cuts that were decided in a run."""
    return [Cut(event["step"], event["total"], event["evaluations"]) for event in run.events_named("cut_while_training")]
