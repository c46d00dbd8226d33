"""Length and drift of preference models are named where they are there, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.finding import Finding
from luthier.core.types import Scores
from luthier.families import family_of

ROWS = 200


def name_file(found: list[Finding], check: str) -> Finding | None:
    return next((one for one in found if one.check == f"preference.{check}"), None)


def pairs(preference: str, share_longer: float = 0.5, rows: int = ROWS, drift: float = 0.2) -> list[Finding]:
    """What is found on pairs of which a share has the longer answer as the better one, told by quality (9 of 10 right), length, both, or nothing."""
    random = np.random.default_rng(7)
    better_is_longer = np.arange(rows) < share_longer * rows
    lead = np.where(better_is_longer, 5.0, -5.0)
    quality = np.where(random.random(rows) < 0.9, 1.0, -1.0)
    reward = {
        "quality": quality,
        "longer": np.sign(lead) + random.normal(0, 0.3, rows),
        "shorter": -np.sign(lead) + random.normal(0, 0.3, rows),
        "both": quality + 1.1 * np.sign(lead) * (random.random(rows) < 0.5),
        "nothing": random.normal(0, 1, rows),
    }[preference]
    tokens = np.full(rows, 10.0)
    more = {"reward": reward, "chosen_tokens": tokens + lead, "rejected_tokens": tokens, "drift": (tokens + lead) * drift}
    return family_of("preference").findings(Scores(np.ones(rows), np.ones(rows), more=more), None)


@pytest.mark.parametrize("preference", ["longer", "shorter"])
def test_pairs_that_length_alone_tells_are_a_warning(preference: str) -> None:
    found = name_file(pairs(preference), "length")
    assert found is not None and found.severity == "warning"
    assert f"explained by length alone: it prefers the {preference} answer" in found.claim
    assert "objective.per_token" in found.remedy
    low, high = found.evidence["even_interval"]
    assert low <= 0.55 and high < 0.6


def test_length_that_counts_beside_quality_is_a_note() -> None:
    found = name_file(pairs("both"), "length")
    assert found is not None and found.severity == "note"
    assert "length counts beside what is good: it leans to the longer answer" in found.claim


@pytest.mark.parametrize("preference", ["quality", "nothing"])
def test_pairs_told_by_quality_or_by_nothing_raise_no_alarm(preference: str) -> None:
    assert not pairs(preference)


def test_pairs_whose_better_answer_is_nearly_always_the_longer_one_cannot_tell() -> None:
    found = name_file(pairs("quality", share_longer=0.98), "length")
    assert found is not None and "98% of the pairs the better answer is the longer one" in found.claim


def test_a_few_pairs_say_nothing_of_length() -> None:
    assert not pairs("longer", rows=12)
    assert not pairs("longer", share_longer=0.9, rows=100)  # ten pairs with the shorter answer as the better one


@pytest.mark.parametrize("kind", ["preference", "unpaired_preference"])
def test_a_large_drift_is_named_with_what_keeps_it_small(kind: str) -> None:
    made = pairs if kind == "preference" else answers
    assert name_file(made("quality", drift=0.6), "drift") is None  # what the documented example has
    found = name_file(made("quality", drift=1.6), "drift")
    assert found is not None and found.severity == "warning"
    assert "1.60 nats a token" in found.claim and "objective.beta" in found.remedy


def answers(preference: str, tells: float = 0.0, rows: int = ROWS, drift: float = 0.2) -> list[Finding]:
    """What is found on single answers whose gain follows quality or length; good ones are longer by so many spreads."""
    random = np.random.default_rng(3)
    good = np.arange(rows) % 2
    length = random.normal(0, 1, rows) + tells * good
    tokens = np.maximum(np.round(40 + 8 * length), 1)
    gained = {
        "quality": good * 2.0 + random.normal(0, 1, rows),
        "longer": tokens / 8 + random.normal(0, 0.3, rows),
        "shorter": -tokens / 8 + random.normal(0, 0.3, rows),
        "nothing": random.normal(0, 1, rows),
    }[preference]
    more = {"gained": gained, "tokens": tokens, "drift": tokens * drift}
    return family_of("unpaired_preference").findings(Scores(np.ones(rows), np.ones(rows), good, more=more), None)


@pytest.mark.parametrize(("preference", "tells"), [("longer", 0.0), ("longer", 0.8), ("shorter", 0.0)])
def test_answers_that_length_alone_tells_are_a_warning(preference: str, tells: float) -> None:
    found = name_file(answers(preference, tells), "length")
    assert found is not None and found.severity == "warning"
    assert f"explained by length alone: it prefers the {preference} answer" in found.claim
    assert "per_token" not in found.remedy  # that is a field of pairs


@pytest.mark.parametrize("preference", ["quality", "nothing"])
def test_answers_told_by_quality_or_by_nothing_raise_no_alarm(preference: str) -> None:
    assert not answers(preference, 0.5)


def test_answers_of_one_kind_or_of_one_length_are_no_comparison() -> None:
    rows = 60
    more = {"gained": np.arange(rows, dtype=float), "tokens": np.full(rows, 10.0), "drift": np.ones(rows)}
    for good in (np.ones(rows, int), np.zeros(rows, int), np.arange(rows) % 2):
        assert not family_of("unpaired_preference").findings(Scores(np.ones(rows), np.ones(rows), good, more=more), None)
