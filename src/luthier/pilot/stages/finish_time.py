"""Predict how long the closing of a run takes (verdict, bundle and report), and limit the rows that baselines are fitted on to fit a time budget."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from luthier.core.run import Run
from luthier.core.types import Example
from luthier.evaluation.baselines import MOST, input_text
from luthier.evaluation.score import score
from luthier.pilot.stages.context import RunContext
from luthier.training.deadline import TimeLimit
from luthier.training.steps import Work

SHARE = 1 / 2
"""Of a budget, that the closing may take before the baselines are fitted on fewer rows."""
FITS = 3
"""Strengths of regularisation that are tried."""
ITERATIONS_PROBE, ITERATIONS_WORDS = 120, 40
"""Of L-BFGS in each fit, about."""
DENSE, SPARSE, COPIED = 30e9, 0.7e9, 2e9
"""Dense and sparse multiplications, and bytes moved, in a second of one thread; a fit that is measured in the small run corrects them."""
HISTORY = 20
"""Vectors as long as the weights that L-BFGS reads in each iteration."""
FEWEST_ROWS, FEWEST_A_CLASS = 500, 5
"""Rows that a baseline is fitted on at least; with fewer it is no rival."""
TIMED = 128
"""Validation rows that tell how quick the machine is before the closing."""


@dataclass(frozen=True)
class ClosingCosts:
    """What the closing takes on a machine as quick as in the small run.

    Args:
        fixed: seconds whatever the baselines are fitted on: the sealed rows, bundle, report.
        rows: training rows.
        classes: classes, labels or numbers that the baselines tell; 0 where nothing is fitted.
        a_row: seconds in which the untouched base reads a training row.
        features: numbers that it gives for a row.
        ngrams: words and word pairs of a row.
        sample: rows on which distinct words were counted.
        distinct: how many of them these rows have.
        growth: exponent with which they become more.
        slower: a measured fit against what the constants here expect.
    """

    fixed: float
    rows: int
    classes: int = 0
    a_row: float = 0.0
    features: int = 0
    ngrams: float = 0.0
    sample: int = 1
    distinct: float = 0.0
    growth: float = 0.7
    slower: float = 1.0

    def probe(self, rows: int) -> float:
        """Seconds to read so many training rows and to fit logistic regression on what the base makes of them."""
        return rows * self.a_row + self.slower * fit_seconds(rows, self.features, self.classes)

    def words(self, rows: int) -> float:
        """Seconds to fit logistic regression on TF-IDF of so many training rows."""
        columns = self.distinct * (rows / self.sample) ** self.growth
        classes = self.classes if self.classes > 2 else 1
        iteration = 4 * rows * self.ngrams * classes / SPARSE + HISTORY * 8 * columns * classes / COPIED + 1e-3
        return self.slower * FITS * ITERATIONS_WORDS * iteration if self.classes else 0.0

    @property
    def fewest(self) -> int:
        """Rows that a baseline needs at least."""
        return min(self.rows, max(FEWEST_ROWS, FEWEST_A_CLASS * self.classes))

    def rows_within(self, seconds: float) -> tuple[int, int]:
        """Training rows for the probe and for TF-IDF, so that the closing takes about so long; TF-IDF loses rows first, for the probe may be what ships.

        Args:
            seconds: for the whole closing.
        """
        if not self.classes:
            return 0, 0
        most = min(self.rows, MOST)
        words = _most_rows(self.words, self.fewest, self.rows, seconds - self.fixed - self.probe(most))
        probe = _most_rows(self.probe, self.fewest, most, seconds - self.fixed - self.words(words))
        return probe, words

    def seconds(self, probe: int, words: int) -> float:
        """Seconds of the closing with the baselines fitted on so many rows."""
        return self.fixed + (self.probe(probe) + self.words(words) if self.classes else 0.0)


def fit_seconds(rows: int, features: int, classes: int) -> float:
    """Seconds to fit logistic regression on a dense table, about, with one thread.

    Args:
        rows: of the table.
        features: its columns.
        classes: that are told apart; of two one is enough.
    """
    weights = features * (classes if classes > 2 else 1)
    return FITS * ITERATIONS_PROBE * (4 * rows * weights / DENSE + HISTORY * 8 * weights / COPIED + 1e-3) if classes else 0.0


def _most_rows(cost: Any, least: int, most: int, seconds: float) -> int:
    """The most rows whose cost stays within so many seconds; `least` in any case."""
    if cost(most) <= seconds:
        return most
    low, high = min(least, most), most
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= seconds else (low, middle)
    return low


def count_words(train: Sequence[Example], columns: Sequence[str]) -> tuple[float, int, float, float]:
    """Words and word pairs of a row, and how the distinct ones become more with the rows (Heaps' law), from a few rows.

    Args:
        train: the training rows.
        columns: that are read.

    Returns:
        N-grams of a row, rows looked at, distinct n-grams in them, and the exponent.
    """
    some = train[:: max(1, len(train) // 400)][:400]
    seen: set[tuple[str, ...]] = set()
    half, total = 1, 0
    for count, example in enumerate(some, 1):
        words = re.findall(r"\w+", input_text(example, columns).lower()[:20_000])
        terms = {(word,) for word in words} | set(pairwise(words))
        total += len(terms)
        seen |= terms
        if count == max(1, len(some) // 2):
            half = max(1, len(seen))
    growth = float(np.clip(np.log2(max(len(seen), 1) / half), 0.3, 1.0))
    return total / max(len(some), 1), max(len(some), 1), float(len(seen)), growth


def read_planned_rows(place: Run) -> tuple[int, int]:
    """Training rows that the probe and TF-IDF may be fitted on at most.

    Args:
        place: of a run; what was decided last is obeyed. Without a budget there is no limit but `MOST`.
    """
    for name in ("probe_rows", "closing_planned", "planned"):
        for event in reversed(place.events_named(name)):
            if event.get("probe_rows"):
                return event["probe_rows"], event["words_rows"]
    return MOST, 1 << 40


def read_planned_closing(place: Run) -> dict[str, Any]:
    """What was planned for the closing of a run, or of the trials of a study; empty where there is no budget."""
    planned = place.events_named("planned")
    return planned[-1].get("closing") or {} if planned else {}


def limit_baseline_rows(context: RunContext, work: Work, limit: TimeLimit | None, closing: Mapping[str, Any]) -> None:
    """Have the baselines fitted on fewer rows where the time left is less than the closing takes; the event `probe_rows` says on how many, and is obeyed.

    The test rows are always read whole.

    Args:
        context: of the run.
        work: its model is trained.
        limit: None where there is no budget.
        closing: as it was planned.
    """
    run = context.run
    if limit is None or not closing or not closing["a_scored_token"] or run.events_named("probe_rows") or run.events_named("test_opened"):
        return
    probe, words = read_planned_rows(run)
    slower = max(1.0, time_scoring(context, work) / closing["a_scored_token"])
    slower = slower if slower > 1.25 else 1.0
    left = limit.seconds - limit.spent()
    fixed, fit, text = (closing[name] * slower for name in ("fixed", "probe", "words"))
    if fixed + fit + text <= left:
        return
    keep_words, keep_probe = share_of(left - fixed - fit, text), share_of(left - fixed, fit)
    if context.outputs is None:
        rows, words = 0, 0
        context.reporter.say("there is less time left than planned: ROUGE-L of a few test answers is left out")
    else:
        rows = max(min(probe, closing["fewest"]), int(probe * keep_probe))
        words = max(min(words, closing["fewest"]), int(words * keep_words))  # a verdict without it would compare with next to nothing
        context.reporter.say(
            f"there is less time left than planned: {context.outputs.probe} is fitted on {rows:,} training rows on the base, on {words:,} on TF-IDF"
        )
    run.event("probe_rows", rows=rows, probe_rows=rows, words_rows=words, left=round(left, 2), expected=round(fixed + fit + text, 2))


def share_of(seconds: float, needed: float) -> float:
    """The share of some work that so many seconds are enough for."""
    return float(np.clip(seconds / needed, 0.0, 1.0)) if needed > 0 else 1.0


def time_scoring(context: RunContext, work: Work) -> float:
    """Seconds in which a token of a few validation rows is scored now."""
    some = work.validation[:: max(1, len(work.validation) // TIMED)][:TIMED]
    began = time.monotonic()
    score(work.model, work.objective, some, poll=context.signals.poll)
    return (time.monotonic() - began) / max(sum(example.size for example in some), 1)
