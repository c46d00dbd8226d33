"""What a model of good and bad answers is compared with, and what its report shows: drift, both kinds of answers, and length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores
from luthier.families.preference_report import drift_row, gained_rows
from luthier.objectives.unpaired_preference import KINDS

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

Feature = Callable[[Sequence[Example]], np.ndarray]
UNKNOWN: tuple[str, ...] = ("gained", "said", "reference", "drift", "tokens", "mismatched", "mismatched_said", "zero")
"""What a trivial model says nothing of."""


def trivial_models(train: Sequence[Example], validation: Sequence[Example], objective: Any) -> list[Baseline]:
    """Always the more frequent kind; and what one number tells, its logistic regression fitted on the training rows: length, and how likely the reference finds the answer.

    Args:
        train: rows to fit on.
        validation: rows.
        objective: knows the reference.
    """
    from luthier.evaluation.baselines import Baseline

    def tokens(examples: Sequence[Example]) -> np.ndarray:
        return np.array([float(len(objective.reference_scores.of(example))) for example in examples])

    def log_probabilities(examples: Sequence[Example]) -> np.ndarray:
        return np.array([float(objective.reference_scores.of(example).astype(float).sum()) for example in examples])

    def log_probabilities_per_token(examples: Sequence[Example]) -> np.ndarray:
        return log_probabilities(examples) / np.maximum(tokens(examples), 1)

    share = _share_of_good(train)

    def always(examples: Sequence[Example]) -> Scores:
        return _scores(np.full(len(examples), share), examples, objective)

    return [
        Baseline(f"always {KINDS[share > 0.5]}", always, always(validation)),
        _fit_one_number(tokens, ("longer answers are good", "shorter answers are good"), train, validation, objective),
        _fit_one_number(log_probabilities, ("what the base finds likelier is good", "what the base finds less likely is good"), train, validation, objective),
        _fit_one_number(log_probabilities_per_token, ("what the base finds likelier a token is good", "what the base finds less likely a token is good"), train, validation, objective),
    ]  # fmt: skip


def _share_of_good(train: Sequence[Example]) -> float:
    """The share of good answers, with one more of each kind."""
    return (sum(example.target for example in train) + 1) / (len(train) + 2)


def _fit_one_number(
    feature: Feature, names: tuple[str, str], train: Sequence[Example], validation: Sequence[Example], objective: Any
) -> Baseline:
    """Good and bad told by one number, by logistic regression.

    Args:
        feature: rows → the number, # (examples,)
        names: of the model where more is good, and where less is.
        train: rows to fit on.
        validation: rows.
        objective: whose loss it is.
    """
    from sklearn.linear_model import LogisticRegression

    from luthier.evaluation.baselines import Baseline

    values = feature(train)
    centre, spread = float(values.mean()), float(values.std()) or 1.0
    model = LogisticRegression().fit(((values - centre) / spread)[:, None], [example.target for example in train])

    def score(examples: Sequence[Example]) -> Scores:
        return _scores(model.predict_proba(((feature(examples) - centre) / spread)[:, None])[:, 1], examples, objective)

    return Baseline(names[0] if float(model.coef_[0, 0]) >= 0 else names[1], score, score(validation))


def _scores(probability: np.ndarray, examples: Sequence[Example], objective: Any) -> Scores:
    """Probabilities of being good as scores, with the objective's own loss, # (examples,)"""
    good, count = np.array([bool(example.target) for example in examples]), np.array([example.units for example in examples])
    losses = objective.spec.losses_of(probability, good) * count
    unknown = dict.fromkeys(UNKNOWN, np.full(len(examples), np.nan))
    return Scores(losses, count, good.astype(int), np.stack([1 - probability, probability], 1), labels=KINDS, more=unknown)


def describe_answers(scores: Scores) -> dict[str, Any]:
    """Tables for the report: drift, good against bad, and whether it is length that was learned.

    Args:
        scores: on the test rows.
    """
    from luthier.evaluation.two_classes import describe_two_classes

    judged = scores.part(np.flatnonzero(scores.count > 0))
    tables = [_drift(judged)]
    if judged.target is not None and 0 < judged.target.sum() < len(judged.target):
        tables += [describe_two_classes(judged, KINDS), _by_length(judged), _against(judged)]
    return {"tables": tables}


def _drift(scores: Scores) -> dict[str, Any]:
    """How much likelier or less likely the answers became, and the distance from the reference."""
    assert scores.target is not None
    rows = []
    for number, name in ((1, "good answers"), (0, "bad answers")):
        of = scores.target == number
        if of.any():
            rows += gained_rows(name, scores.more["gained"][of], scores.more["tokens"][of])
    mismatched = scores.more["mismatched"]
    if not np.isnan(mismatched).all():
        rows.append(("answers to other prompts: log-probability gained, in nats an answer; what the others are compared with, if above 0", f"{np.nanmean(mismatched):+.3f}"))  # fmt: skip
    good = scores.part(np.flatnonzero(scores.target == 1))
    if good.rows:
        rows.append(drift_row("the good answers", replace(good, more={**good.more, "chosen_tokens": good.more["tokens"]})))
    return {"title": "How far it has gone from the reference", "head": ("on the test rows", ""), "rows": rows}


def _by_length(scores: Scores) -> dict[str, Any]:
    """Good told from bad among short and among long answers, and whether the reward follows the length."""
    from scipy.stats import spearmanr

    from luthier.evaluation.compare import interval
    from luthier.evaluation.metrics import measure

    assert scores.target is not None
    tokens, reward = scores.more["tokens"], scores.more["gained"]
    middle = float(np.median(tokens))
    rows = []
    for name, part in ((f"at most {middle:g} tokens", tokens <= middle), (f"more than {middle:g} tokens", tokens > middle)):
        some = scores.part(np.flatnonzero(part))
        assert some.target is not None
        if not 0 < some.target.sum() < len(some.target):
            continue
        low, high = interval("auc", some)
        measured = measure(some, ("auc", "accuracy"))
        rows.append(
            (name, f"{len(some.target):,}", f"{measured['auc']:.3f} [{low:.3f}, {high:.3f}]", f"{100 * measured['accuracy']:.1f} %")
        )
    follows = float(spearmanr(tokens, reward).statistic) if len(set(tokens)) > 1 and len(set(reward)) > 1 else 0.0  # type: ignore[attr-defined]
    rows.append(("rank correlation of an answer's length with what it gained", f"{len(tokens):,}", f"{follows:+.2f}", ""))
    return {"title": "Is it length that was learned?", "head": ("answers of …", "rows", "AUC", "told right"), "rows": rows}


def _against(scores: Scores) -> dict[str, Any]:
    """The AUC beside that of two simple rules, with paired intervals."""
    from luthier.evaluation.compare import paired_interval
    from luthier.evaluation.metrics import measure

    rules = {"longer answers are good": scores.more["tokens"], "what the reference finds likelier is good": scores.more["reference"]}
    own = measure(scores, ("auc",))["auc"]
    rows = []
    for name, values in rules.items():
        rule = replace(scores, probabilities=np.stack([-values, values], 1))
        gain, low, high = paired_interval("auc", scores, rule)
        rows.append((name, f"{measure(rule, ('auc',))['auc']:.3f}", f"{own:.3f}", f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"))
    return {"title": "Good told from bad: AUC", "head": ("rule", "the rule", "this model", "difference, the same rows"), "rows": rows}
