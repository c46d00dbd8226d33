"""The last word: better than the better rival, beyond noise?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.core.finding import Finding, Severity
from luthier.core.types import Scores
from luthier.evaluation.compare import interval, paired
from luthier.evaluation.metrics import METRICS, measure

WORDS: dict[str, Severity] = {"improved": "good", "no_evidence": "warning", "worse": "stop"}


def decide(task: str, metrics: tuple[str, ...], ours: Scores, base: tuple[str, Scores], trivial: Mapping[str, Scores]) -> dict[str, Any]:
    """Compare with both rivals on the sealed test rows.

    Args:
        task: classification or chat.
        metrics: the first decides.
        ours: the trained model's scores.
        base: the untouched base's name and scores.
        trivial: the trivial models' scores by name; the best of them is the trivial rival.

    Returns:
        The content of verdict.json, without the run's costs. `difference.value` is the improvement: positive is better.
    """
    name = metrics[0]
    metric = METRICS[name]
    sign = 1 if metric.higher else -1
    low, high = interval(name, ours)

    def all_of(scores: Scores) -> dict[str, float]:
        return {other: value for other, value in measure(scores, metrics[1:]).items() if math.isfinite(value)}

    def described(label: str, scores: Scores) -> dict[str, Any]:
        own_low, own_high = interval(name, scores)
        return {"name": label, "value": measure(scores, (name,))[name], "low": own_low, "high": own_high, "metrics": all_of(scores)}

    rivals = {"base": described(*base)}
    best = max(trivial, key=lambda label: sign * measure(trivial[label], (name,))[name])
    rivals["trivial"] = described(best, trivial[best])
    better = max(rivals, key=lambda rival: sign * rivals[rival]["value"])
    value, worst, most = paired(name, ours, base[1] if better == "base" else trivial[best])
    word = "improved" if worst > 0 else "worse" if most < 0 else "no_evidence"
    return {
        "task": task,
        "metric": name,
        "higher_is_better": metric.higher,
        "test": {
            "value": measure(ours, (name,))[name],
            "low": low,
            "high": high,
            "n": len(ours.loss),
            **all_of(ours),
        },
        "base": rivals["base"],
        "trivial": rivals["trivial"],
        "others": [described(label, scores) for label, scores in trivial.items() if label != best],
        "difference": {"against": better, "name": rivals[better]["name"], "value": value, "low": worst, "high": most},
        "verdict": word,
    }


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict for a person."""
    difference = verdict["difference"]
    amount = f"{shown(verdict['metric'], difference['value'], signed=True)} [{shown(verdict['metric'], difference['low'], signed=True)}, {shown(verdict['metric'], difference['high'], signed=True)}]"
    rival = f"the better rival ({difference['name']})"
    return {
        "improved": f"Better than {rival} by {amount}: beyond noise on {verdict['test']['n']:,} unseen rows.",
        "no_evidence": f"No evidence that it is better than {rival}: the difference is {amount} on {verdict['test']['n']:,} unseen rows.",
        "worse": f"Worse than {rival} by {amount} on {verdict['test']['n']:,} unseen rows.",
    }[verdict["verdict"]]


def shown(metric: str, value: float, signed: bool = False) -> str:
    """A metric's value as a person reads it: shares in percent (points where it is a difference)."""
    if metric in ("accuracy", "macro_f1", "balanced_accuracy", "calibration_error") or metric.startswith("f1:"):
        return f"{100 * value:+.1f} points" if signed else f"{100 * value:.1f} %"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def times(count: int) -> str:
    """How often, as a person says it."""
    return "once" if count == 1 else f"{count} times"


def finding(verdict: Mapping[str, Any]) -> Finding:
    """The verdict among the findings."""
    remedies = {
        "improved": "",
        "no_evidence": "more rows, more epochs or a stronger base (`luthier similar` names it) may show a difference; or use the rival, it is simpler",
        "worse": "use the rival; look at the findings for the reason",
    }
    return Finding(
        check="verdict",
        severity=WORDS[verdict["verdict"]],
        claim=sentence(verdict),
        evidence=dict(verdict["difference"]),
        remedy=remedies[verdict["verdict"]],
    )
