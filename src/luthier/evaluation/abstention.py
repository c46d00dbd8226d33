"""What can be promised of a classifier's answers where unsure ones are left out: a threshold of the confidence, and how many answers above it are wrong at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SURE = 0.95
"""How sure a promise is."""
THRESHOLDS = 40
"""Thresholds that are looked at, at even shares of the rows; their number does not make a promise weaker."""
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Errors that the report gives the thresholds of."""
USUAL = 0.05
"""The error that a sentence is about, or the next one that can be promised."""


@dataclass(frozen=True)
class Counts:
    """What held-out rows say of a threshold.

    Args:
        threshold: answers of this confidence and more are given.
        answered: rows that have it.
        wrong: of these.
    """

    threshold: float
    answered: int
    wrong: int

    @property
    def error(self) -> float:
        """The share of the answers that are wrong on these rows."""
        return self.wrong / self.answered

    @property
    def bound(self) -> float:
        """The share of the answers that are wrong at most, at a confidence of `SURE` for this threshold alone."""
        return error_bound(self.answered, self.wrong)


@dataclass(frozen=True)
class Promise:
    """A threshold above which no more than a share of the answers is wrong.

    Args:
        error_below: the share.
        counts: the threshold, and what the held-out rows say of it.
        rows: that there were.
    """

    error_below: float
    counts: Counts
    rows: int

    @property
    def share(self) -> float:
        """Of the held-out rows that are answered."""
        return self.counts.answered / self.rows


@dataclass(frozen=True)
class Abstention:
    """What held-out rows say of thresholds of the confidence.

    Args:
        rows: that there were.
        counts: from the highest threshold to 0.
    """

    rows: int
    counts: tuple[Counts, ...]

    def promise(self, error_below: float) -> Promise | None:
        """The lowest threshold of which it can be promised that no more than such a share of the answers is wrong; None where none can.

        The thresholds are tested from the highest down, beginning where there are rows enough to tell, and the first one that fails ends it. So each is
        tested at the full level, and all the same the promise is broken in no more than 1 − `SURE` of all cases.

        Source: Angelopoulos et al. 2021, "Learn then Test", fixed sequence testing; the bound is Clopper & Pearson's (1934).

        Args:
            error_below: above 0, below 1.
        """
        held = None
        for each in self.counts:
            if error_bound(each.answered, 0) > error_below:
                continue  # so few rows could not tell even if all of them were right
            if each.bound > error_below:
                break
            held = each
        return None if held is None else Promise(error_below, held, self.rows)

    def least_error(self) -> float:
        """The smallest share of wrong answers that can be promised; 1 where nothing can."""
        bounds = sorted({math.ceil(each.bound * 1000) / 1000 for each in self.counts})
        return next((bound for bound in bounds if self.promise(bound) is not None), 1.0)

    def promises(self, levels: Sequence[float] = LEVELS) -> list[Promise]:
        """Those that can be made of some errors, and of the smallest one.

        Args:
            levels: the errors, each above 0, below 1.
        """
        least = self.least_error()
        found = [self.promise(level) for level in sorted({*levels, *((least,) if least < 1 else ())})]
        return [promise for promise in found if promise is not None]

    def at(self, threshold: float) -> Counts | None:
        """What the held-out rows say of a threshold that was set without looking at them: of the lowest one here that is not below it; None where none is."""
        return next((each for each in reversed(self.counts) if each.threshold >= threshold), None)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a bundle and in evaluation.json."""
        return {"sure": SURE, "rows": self.rows, "counts": [asdict(each) for each in self.counts]}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Abstention:
        """As `as_json` gave it."""
        return cls(
            int(facts["rows"]),
            tuple(Counts(float(each["threshold"]), int(each["answered"]), int(each["wrong"])) for each in facts["counts"]),
        )


@lru_cache(4096)
def error_bound(answered: int, wrong: int) -> float:
    """The share of wrong answers that is not exceeded, at a confidence of `SURE` (Clopper & Pearson 1934, one-sided).

    Args:
        answered: rows; 0 tells nothing.
        wrong: of these.
    """
    from scipy.stats import beta

    return 1.0 if wrong >= answered else float(beta.ppf(SURE, wrong + 1, answered - wrong))


def rows_needed(error_below: float) -> int:
    """Rows that can promise an error where none of them is wrong.

    Args:
        error_below: above 0, below 1.
    """
    return math.ceil(math.log(1 - SURE) / math.log(1 - error_below))


def tabulate_abstention(confidence: np.ndarray, right: np.ndarray) -> Abstention:
    """Count the wrong answers above thresholds that stand at even shares of the rows.

    Which rows are above a threshold hangs on their number alone, so that each count is one of independent rows above it.

    Args:
        confidence: of held-out rows, # (rows,)
        right: whether the answer is, # (rows,)
    """
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], np.cumsum(~right[order].astype(bool))
    rows, counts = len(order), []
    for answered in sorted({-(-rows * part // THRESHOLDS) for part in range(1, THRESHOLDS + 1)} - {0}):
        below = float(sure[answered]) if answered < rows else -1.0
        if below < sure[answered - 1]:  # rows that are equally sure are answered together
            counts.append(Counts(_between(below, float(sure[answered - 1])), answered, int(wrong[answered - 1])))
    return Abstention(rows, tuple(counts))


def measure_abstention(threshold: float, confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """What a threshold gives on other rows: `rows`, the share that is `answered`, and the `error`, the share of these that is wrong (None where none is answered).

    Args:
        threshold: answers of this confidence and more are given.
        confidence: # (rows,)
        right: # (rows,)
    """
    given = confidence >= threshold
    error = float(1 - right[given].mean()) if given.any() else None
    return {"rows": len(confidence), "answered": float(given.mean()), "error": error}


def describe_abstention(abstention: Abstention, confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """The promises that can be made, each with what it gave on the test rows, as data for the report.

    Args:
        abstention: of the validation rows.
        confidence: of the test rows, # (rows,)
        right: # (rows,)
    """
    promises = [
        {
            "error_below": promise.error_below,
            "threshold": promise.counts.threshold,
            "answered": promise.share,
            "error": promise.counts.error,
            "bound": promise.counts.bound,
            "test": measure_abstention(promise.counts.threshold, confidence, right),
        }
        for promise in abstention.promises()
    ]
    return {**abstention.as_json(), "least_error": abstention.least_error(), "promises": promises}


def explain_promise(promise: Promise) -> str:
    """What a threshold promises, in a sentence."""
    counts = promise.counts
    return (
        f"labels are given from a confidence of {counts.threshold:g} on: at most {percent(promise.error_below)} of them are wrong ({SURE:.0%} sure; of {promise.rows:,} "
        f"validation rows {promise.share:.0%} are answered, {counts.error:.1%} of these wrongly)"
    )


def explain_threshold(abstention: Abstention, threshold: float) -> str:
    """What to expect of a threshold that a person set, in a sentence; empty where no held-out rows are so sure."""
    counts = abstention.at(threshold)
    if counts is None:
        return ""
    return (
        f"of {abstention.rows:,} validation rows {counts.answered / abstention.rows:.0%} have a confidence of {counts.threshold:g} or more: {counts.error:.1%} of these are wrong "
        f"(at most {counts.bound:.1%}, {SURE:.0%} sure)"
    )


def explain_abstention(details: Mapping[str, Any]) -> str:
    """One promise, and what it gave on the test rows, in a sentence.

    Args:
        details: as `describe_abstention` gave them.
    """
    promises = details["promises"]
    if not promises:
        return f"{details['rows']} validation rows are too few to promise anything of its surest answers"
    shown = next((promise for promise in promises if promise["error_below"] >= USUAL), promises[-1])
    given, test = shown["answered"], shown["test"]
    which = "of all its answers" if given == 1 else f"of its answers from a confidence of {shown['threshold']:g} on"
    answered = "" if given == 1 else f": {given:.0%} of the validation rows are answered"
    seen = "none was answered" if test["error"] is None else f"{test['error']:.1%} of them were wrong"
    also = "" if given == 1 or test["error"] is None else f"{test['answered']:.0%} are answered, and "
    return f"{which} at most {percent(shown['error_below'])} are wrong ({SURE:.0%} sure){answered}; on the test rows {also}{seen}"


def percent(share: float) -> str:
    """A share as a person writes it: 5%, 0.5%."""
    return f"{100 * share:.4g}%"


def _between(below: float, highest: float) -> float:
    """The number with the fewest digits that is above the one and not above the other."""
    for digits in range(17):
        found = math.floor(highest * 10**digits) / 10**digits
        if below < found <= highest:
            return found
    return highest
