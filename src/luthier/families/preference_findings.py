"""What a person should know of a model of preferences, beside the verdict: whether it learned length, and how far it has gone from the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from luthier.core.finding import Finding
from luthier.core.types import Scores
from luthier.evaluation.compare import interval
from luthier.evaluation.metrics import measure
from luthier.evaluation.pairs import right_pairs
from luthier.evaluation.resamples import DRAWS, counts_of_rows

FEWEST = 20
"""Test rows of a kind from which on something is said of length."""
ONE_SIDED = 0.95
"""Share of comparisons in which the better answer is the longer one (or the shorter one) from which on nobody can tell quality from length."""
FAR = 1.0
"""Drift in nats a token that is far: a log-ratio of about 1.4, so that a token became four times likelier or less likely; the example of docs/preference.md ends at 0.6."""
HARDLY = 0.55
"""Share told right, with both kinds weighed alike, that is hardly more than half: differences in length are not equally large in both kinds, which alone gives a few points."""
MOST = 1_000
"""Good, and bad, answers that are compared with each other, at most."""
LEVEL = 0.95
"""Of the intervals."""


Told = tuple[float, np.ndarray] | None
"""The share that is told right, and the same on resamples, # (draws,); None where there is nothing to tell."""


def pair_findings(scores: Scores) -> list[Finding]:
    """Length and drift of a model of pairs.

    Args:
        scores: on the test pairs.
    """
    some = scores.part(np.flatnonzero(scores.count > 0))
    lead = some.more["chosen_tokens"] - some.more["rejected_tokens"]
    told, longer, shorter = right_pairs(some) / some.count, lead > 0, lead < 0
    if len(told) < FEWEST:
        return _drift(some, "better")
    groups = [_of_pairs(told, group) for group in (longer, shorter)]
    share = float(longer.sum()) / max(float((longer | shorter).sum()), 1.0)
    found = _length(
        groups[0],
        groups[1],
        share,
        int(min(longer.sum(), shorter.sum())),
        "pairs",
        "--set objective.per_token=true compares means of tokens; ",
    )
    return [*found, *_drift(some, "better")]


def answer_findings(scores: Scores) -> list[Finding]:
    """Length and drift of a model of single answers: each good test answer is compared with each bad one.

    Args:
        scores: on the test rows.
    """
    some = scores.part(np.flatnonzero(scores.count > 0))
    assert some.target is not None
    good_rows = some.part(np.flatnonzero(some.target == 1))
    drift = _drift(replace(good_rows, more={**good_rows.more, "chosen_tokens": good_rows.more["tokens"]}), "good") if good_rows.rows else []
    good, bad = (_evenly(np.flatnonzero(some.target == kind)) for kind in (1, 0))
    if min(len(good), len(bad)) < FEWEST:
        return drift
    tokens, gained = some.more["tokens"], some.more["gained"]
    lead = tokens[good][:, None] - tokens[bad][None]
    apart = gained[good][:, None] - gained[bad][None]
    told = np.where(apart == 0, 0.5, (apart > 0).astype(float))
    counts = [np.concatenate(list(counts_of_rows(len(rows), seed, DRAWS))) for seed, rows in enumerate((good, bad))]
    groups = []
    for group in (lead > 0, lead < 0):
        draws = [np.einsum("db,db->d", counts[0] @ weights, counts[1]) for weights in (told * group, group.astype(float))]
        groups.append((float(told[group].mean()), _ratio(*draws)) if group.any() else None)
    share = float((lead > 0).sum()) / max(float((lead != 0).sum()), 1.0)
    fewest = int(min((lead > 0).sum(), (lead < 0).sum()))
    return [*_length(groups[0], groups[1], share, fewest, "comparisons of a good with a bad answer", ""), *drift]


def _of_pairs(told: np.ndarray, group: np.ndarray) -> Told:
    """The share of a group of pairs that is told right; all groups are resampled alike.

    Args:
        told: 1 where it is, 0 where not, # (pairs,)
        group: which pairs, # (pairs,) of bool
    """
    if not group.any():
        return None
    draws = [_ratio(counts @ (told * group), counts @ group) for counts in counts_of_rows(len(told), 0, DRAWS)]
    return float(told[group].mean()), np.concatenate(draws)


def _length(longer: Told, shorter: Told, share: float, fewest: int, what: str, remedy: str) -> list[Finding]:
    """Whether the length of an answer tells what the model prefers.

    Where it prefers the longer answer whatever it says, it is right of the pairs whose better answer is the longer one as often as it is wrong of the others:
    with both kinds weighed alike, half is told right.

    Args:
        longer: comparisons whose better answer is the longer one.
        shorter: those whose better answer is the shorter one.
        share: of the former among both.
        fewest: how many there are of the rarer kind.
        what: is compared, in the plural.
        remedy: that this family has beside those of the rows.
    """
    even_out = f"{remedy}take in longer answers that are worse and shorter ones that are better, or leave out rows whose answers differ much in length"
    if max(share, 1 - share) >= ONE_SIDED or longer is None or shorter is None:
        if longer is None and shorter is None:
            return []  # all are of the same length
        side = "longer" if share >= 0.5 else "shorter"
        return [Finding(check="preference.length", severity="warning", evidence={"longer": share},
                        claim=f"in {max(share, 1 - share):.0%} of the {what} the better answer is the {side} one: whether the model learned what is good or how long it is cannot be told",
                        remedy=even_out)]  # fmt: skip
    if fewest < FEWEST:
        return []
    apart, low, high = longer[0] - shorter[0], *_ends(longer[1] - shorter[1])
    even, even_low, even_high = (longer[0] + shorter[0]) / 2, *_ends((longer[1] + shorter[1]) / 2)
    if low <= 0 <= high:
        return []
    side = "longer" if apart > 0 else "shorter"
    alone = even_low <= HARDLY
    claim = (
        f"{'its preference is explained by length alone: it prefers' if alone else 'length counts beside what is good: it leans to'} the {side} answer. Of the {what} "
        f"{100 * longer[0]:.0f} % are told right where the better answer is the longer one and {100 * shorter[0]:.0f} % where it is the shorter one "
        f"({100 * apart:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]); with both weighed alike {100 * even:.0f} % [{100 * even_low:.0f}, {100 * even_high:.0f}]"
    )
    evidence = {
        "longer": longer[0],
        "shorter": shorter[0],
        "apart": apart,
        "interval": [low, high],
        "even": even,
        "even_interval": [even_low, even_high],
    }
    return [Finding(check="preference.length", severity="warning" if alone else "note", claim=claim, evidence=evidence, remedy=even_out)]


def _drift(scores: Scores, kind: str) -> list[Finding]:
    """The distance from the reference, where it is far beyond noise.

    Args:
        scores: with `drift` and `chosen_tokens`.
        kind: of the answers: better, or good.
    """
    low, high = interval("drift", scores)
    if not low > FAR:
        return []
    value = measure(scores, ("drift",))["drift"]
    claim = f"it has gone far from the reference: on the {kind} answers {value:.2f} nats a token [{low:.2f}, {high:.2f}] (KL estimate; {FAR:g} and more is far)"
    return [Finding(check="preference.drift", severity="warning", claim=claim, evidence={"drift": value, "interval": [low, high]},
                    remedy="read what it answers (luthier chat); a lower optimizer.lr, fewer epochs or a larger objective.beta keep it nearer")]  # fmt: skip


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One by the other; NaN where a resample holds none."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-12), np.nan)


def _ends(draws: np.ndarray) -> tuple[float, float]:
    """A percentile interval."""
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _evenly(rows: np.ndarray) -> np.ndarray:
    """All of them, or evenly so many that they can be compared with each other."""
    return rows if len(rows) <= MOST else rows[np.linspace(0, len(rows) - 1, MOST).astype(int)]
