"""What a preference model is compared with, and what its report shows: drift, both answers, and length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

STEEPEST = 50.0
"""Of a trivial model's one weight, on a feature of spread 1: where it tells all training pairs right, more would tell nothing."""


def trivial_models(train: Sequence[Example], validation: Sequence[Example], objective: Any) -> list[Baseline]:
    """The pairs told by one number each, its weight fitted on the training pairs: the length, and how likely the reference finds the answers.

    Args:
        train: pairs to fit on.
        validation: pairs.
        objective: knows the reference.
    """

    def sides(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and log-probability under the reference, of both answers, # (pairs, 2), (pairs, 2)"""
        lengths = np.array([example.facts["lengths"] for example in examples], float).reshape(-1, 2)
        known = [np.split(objective.reference_scores.of(example).astype(float), [example.facts["lengths"][0]]) for example in examples]
        return lengths, np.array([[side.sum() for side in pair] for pair in known]).reshape(-1, 2)

    def longer(examples: Sequence[Example]) -> np.ndarray:
        lengths, _ = sides(examples)
        return np.sign(lengths[:, 0] - lengths[:, 1])

    def likelier(examples: Sequence[Example]) -> np.ndarray:
        _, scores = sides(examples)
        return scores[:, 0] - scores[:, 1]

    def likelier_per_token(examples: Sequence[Example]) -> np.ndarray:
        lengths, scores = sides(examples)
        each = scores / np.maximum(lengths, 1)
        return each[:, 0] - each[:, 1]

    return [
        _fit_one_number(longer, ("the longer answer is better", "the shorter answer is better"), train, validation, objective),
        _fit_one_number(likelier, ("what the base finds likelier is better", "what the base finds less likely is better"), train, validation, objective),
        _fit_one_number(likelier_per_token, ("what the base finds likelier a token is better", "what the base finds less likely a token is better"),
                 train, validation, objective),
    ]  # fmt: skip


def _fit_one_number(
    feature: Callable[[Sequence[Example]], np.ndarray],
    names: tuple[str, str],
    train: Sequence[Example],
    validation: Sequence[Example],
    objective: Any,
) -> Baseline:
    """Pairs told by one number: the lead of the better answer is a multiple of it, which the training pairs choose by the objective's own loss.

    Args:
        feature: pairs → the better answer's number less the worse one's, # (pairs,)
        names: of the model where more is better, and where less is.
        train: pairs to fit on.
        validation: pairs.
        objective: whose loss it is.
    """
    import torch
    from scipy.optimize import minimize_scalar

    from luthier.evaluation.baselines import Baseline

    taught = np.array([example.units for example in train])
    values = feature(train)
    spread = float(np.sqrt((values**2).mean())) or 1.0
    scale = spread * objective.spec.beta  # so that the weight is one of rewards

    def losses(lead: np.ndarray) -> np.ndarray:
        return objective.spec.losses(torch.from_numpy(lead)).numpy()

    fitted: Any = minimize_scalar(
        lambda weight: float((losses(weight * values / scale) * taught).sum()), bounds=(-STEEPEST, STEEPEST), method="bounded"
    )
    weight = float(fitted.x)

    def score(examples: Sequence[Example]) -> Scores:
        lead, count = weight * feature(examples) / scale, np.array([example.units for example in examples])
        unknown = np.full(len(lead), np.nan)
        more = {
            "reward": lead * objective.spec.beta,
            **dict.fromkeys(("chosen", "rejected", "chosen_tokens", "rejected_tokens", "drift"), unknown),
        }
        return Scores(losses(lead) * count, count, more=more)

    return Baseline(names[0] if weight >= 0 else names[1], score, score(validation))


def describe_pairs(scores: Scores) -> dict[str, Any]:
    """Tables for the report: drift, what became of both answers, and whether it is length that was learned.

    Args:
        scores: on the test pairs.
    """
    return {"tables": [_drift(scores), _by_length(scores), _against(scores)]}


def _drift(scores: Scores) -> dict[str, Any]:
    """How much likelier or less likely the answers became, and the distance from the reference."""
    rows = []
    for side, name in (("chosen", "the better answers"), ("rejected", "the worse answers")):
        rows += gained_rows(name, scores.more[side], scores.more[f"{side}_tokens"])
    rows.append(drift_row("the better answers", scores))
    return {"title": "How far it has gone from the reference", "head": ("on the test pairs", ""), "rows": rows}


def gained_rows(name: str, gained: np.ndarray, tokens: np.ndarray) -> list[tuple[str, str]]:
    """What became of some answers: how much likelier they are than they were, and how many of them.

    Args:
        name: of the answers.
        gained: log-probability, in nats, # (answers,)
        tokens: of each, # (answers,)
    """
    return [
        (f"{name}: log-probability gained, in nats a token", f"{gained.sum() / max(tokens.sum(), 1):+.4f}"),
        (f"{name}: share that became likelier", f"{100 * float((gained > 0).mean()):.1f} %"),
    ]


def drift_row(name: str, scores: Scores) -> tuple[str, str]:
    """The distance from the reference on some answers, with its interval.

    Args:
        name: of the answers.
        scores: of them, with `drift` and `chosen_tokens`.
    """
    from luthier.evaluation.compare import interval

    low, high = interval("drift", scores)
    value = scores.more["drift"].sum() / max(scores.more["chosen_tokens"].sum(), 1)
    return f"drift from the reference on {name} (KL estimate), in nats a token", f"{value:.5f} [{low:.5f}, {high:.5f}]"


def _by_length(scores: Scores) -> dict[str, Any]:
    """Accuracy where the better answer is the longer one, and where it is the shorter one."""
    from luthier.evaluation.compare import interval
    from luthier.evaluation.metrics import measure

    lengths = scores.more["chosen_tokens"] - scores.more["rejected_tokens"]
    rows = []
    for name, part in (("longer", lengths > 0), ("shorter", lengths < 0), ("as long", lengths == 0)):
        chosen = np.flatnonzero(part & (scores.count > 0))
        if not len(chosen):
            continue
        some = scores.part(chosen)
        low, high = interval("pair_accuracy", some)
        value, per_token = (measure(some, (metric,))[metric] for metric in ("pair_accuracy", "length_normalised_accuracy"))
        share = len(chosen) / max(float((scores.count > 0).sum()), 1)
        rows.append(
            (name, f"{len(chosen):,} ({share:.0%})", f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", f"{100 * per_token:.1f} %")
        )
    head = ("the better answer is …", "pairs", "told right", "told right, a token")
    return {"title": "Is it length that was learned?", "head": head, "rows": rows}


def _against(scores: Scores) -> dict[str, Any]:
    """Accuracy beside that of two simple rules, with paired intervals."""
    from luthier.evaluation.compare import paired_interval
    from luthier.evaluation.metrics import measure

    more = scores.more
    rules = {
        "the longer answer is better": more["chosen_tokens"] - more["rejected_tokens"],
        "what the reference finds likelier is better": more["reference_chosen"] - more["reference_rejected"],
    }
    own = measure(scores, ("pair_accuracy",))["pair_accuracy"]
    rows = []
    for name, lead in rules.items():
        rule = replace(scores, more={**more, "reward": lead})
        gain, low, high = paired_interval("pair_accuracy", scores, rule)
        value = measure(rule, ("pair_accuracy",))["pair_accuracy"]
        rows.append((name, f"{100 * value:.1f} %", f"{100 * own:.1f} %", f"{100 * gain:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"))
    return {"title": "Pairs told right", "head": ("rule", "the rule", "this model", "difference, the same pairs"), "rows": rows}
