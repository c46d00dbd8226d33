"""The verdict: whether the model is better than the strongest baseline, beyond noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.core.finding import Finding, Severity
from luthier.core.types import Scores
from luthier.core.words import duration
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import METRICS, is_share, measure

FEWEST_ROWS = 10
"""Of a test set from which an interval can be had: resamples of fewer rows show less than the noise."""
SEVERITIES: dict[str, Severity] = {"improved": "good", "no_evidence": "warning", "worse": "stop"}


def decide(
    task: str,
    metrics: tuple[str, ...],
    ours: Scores,
    base: tuple[str, Scores] | None,
    trivial: Mapping[str, Scores],
    against_base: bool = True,
) -> dict[str, Any]:
    """Compare with the baselines on the sealed test rows.

    Args:
        task: the family's name.
        metrics: the first decides.
        ours: the scores of what ships.
        base: the untouched base's name and scores; None where there is none.
        trivial: the trivial models' scores by name; the best of them is the trivial baseline.
        against_base: False where the untouched base with logistic regression is itself what ships.

    Returns:
        The content of verdict.json, without the run's costs. `difference.value` is the improvement: positive is better; of the other baselines
        `difference` is the improvement over each and its interval.
    """
    name = metrics[0]
    metric = METRICS[name]
    sign = 1 if metric.higher else -1
    low, high = interval(name, ours)
    baselines = {"base": describe_model(metrics, *base)} if base is not None else {}
    best = max(trivial, key=lambda label: sign * measure(trivial[label], (name,))[name])
    baselines["trivial"] = describe_model(metrics, best, trivial[best])
    strongest = max(baselines if against_base else ("trivial",), key=lambda which: sign * baselines[which]["value"])
    rival = base[1] if base is not None and strongest == "base" else trivial[best]
    value, worst, most = paired_interval(name, ours, rival)
    rows = ours.answered if metric.answers else ours.rows
    word = "improved" if worst > 0 else "worse" if most < 0 else "no_evidence"
    return {
        "task": task,
        "metric": name,
        "higher_is_better": metric.higher,
        "test": {
            "value": measure(ours, (name,))[name],
            "low": low,
            "high": high,
            "n": rows,
            **_others(metrics, ours),
        },
        "base": baselines.get("base"),
        "trivial": baselines["trivial"],
        "others": [
            describe_model(metrics, label, scores) | {"difference": paired_interval(name, ours, scores)}
            for label, scores in trivial.items()
            if label != best
        ],
        "difference": {"against": strongest, "name": baselines[strongest]["name"], "value": value, "low": worst, "high": most},
        "answers": [_of_answers(other, ours, rival) for other in metrics[1:] if METRICS[other].answers],
        "verdict": word if rows >= FEWEST_ROWS else "no_evidence",
    }


def _of_answers(name: str, ours: Scores, rival: Scores) -> dict[str, Any]:
    """A further metric of the answers with its interval, and the difference from the strongest baseline on the same rows."""
    low, high = interval(name, ours)
    value, worst, most = paired_interval(name, ours, rival)
    difference = {"value": value, "low": worst, "high": most}
    return {"metric": name, "value": measure(ours, (name,))[name], "low": low, "high": high, "difference": difference}


def describe_model(metrics: tuple[str, ...], label: str, scores: Scores) -> dict[str, Any]:
    """A model's metrics on the test rows, with the interval of the first.

    Args:
        metrics: in `METRICS`; the first decides.
        label: the model, for a person.
        scores: on the test rows.
    """
    low, high = interval(metrics[0], scores)
    value = measure(scores, metrics[:1])[metrics[0]]
    return {"name": label, "value": value, "low": low, "high": high, "metrics": _others(metrics, scores)}


def _others(metrics: tuple[str, ...], scores: Scores) -> dict[str, float]:
    return {name: value for name, value in measure(scores, metrics[1:]).items() if math.isfinite(value)}


def verdict_sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict for a person."""
    difference, metric, rows = verdict["difference"], verdict["metric"], f"{verdict['test']['n']:,} unseen rows"
    ends = [difference["low"], difference["high"]]
    if verdict["verdict"] == "worse":
        amount = f"{_without_sign(metric, difference['value'])} [{', '.join(_format_unsigned(metric, -end) for end in reversed(ends))}]"
        return f"Worse by {amount} than {difference['name']}, the strongest baseline, on {rows}."
    value, what = difference["value"], ""
    if not verdict["higher_is_better"]:
        value, ends, what = -value, [-end for end in reversed(ends)], f"{metric} "
    if verdict["test"]["n"] < FEWEST_ROWS:
        amount = f"{what}{format_value(metric, value, signed=True)} against {difference['name']}, the strongest baseline"
        rows = rows if verdict["test"]["n"] != 1 else "1 unseen row"
        return f"{amount}: no evidence that it is better, for {rows} are too few for an interval."
    amount = f"{what}{format_value(metric, value, signed=True)} [{', '.join(_format_unsigned(metric, end) for end in ends)}]"
    end = {"improved": "better beyond noise", "no_evidence": "no evidence that it is better"}[verdict["verdict"]]
    return f"{amount} against {difference['name']}, the strongest baseline: {end} on {rows}."


def _without_sign(metric: str, value: float) -> str:
    return format_value(metric, abs(value), signed=True).removeprefix("+")


def _format_unsigned(metric: str, value: float) -> str:
    return format_value(metric, value, signed=True).removeprefix("+").removesuffix(" points")


def format_value(metric: str, value: float, signed: bool = False) -> str:
    """A metric's value as a person reads it: shares in percent (points where it is a difference)."""
    if is_share(metric):
        return f"{100 * value:+.1f} points" if signed else f"{100 * value:.1f} %"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def format_interval(metric: str, found: Mapping[str, Any]) -> str:
    """A metric's value with its interval, the unit once: 83.0 % [80.1, 85.2].

    Args:
        metric: its name.
        found: holds the value, low and high.
    """
    value, low, high = (format_value(metric, found[name]) for name in ("value", "low", "high"))
    return f"{value} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"


def format_count(count: int) -> str:
    """How often, as a person says it."""
    return "once" if count == 1 else f"{count} times"


def explain_cut(verdict: Mapping[str, Any]) -> str:
    """What the budget's cut may explain, and which budget would not have cut; empty where there is nothing to explain.

    Args:
        verdict: with `cut` where the budget cut the training.
    """
    cut = verdict.get("cut")
    if not cut or (verdict["verdict"] == "improved" and verdict.get("ships") != "probe"):
        return ""
    why = "which is the likely reason" if verdict["verdict"] != "improved" else "which is likely why the trained model does not ship"
    return (
        f"the budget of {duration(cut['budget'])} cut the training to {cut['steps']:,} of {cut['wanted']:,} steps, {why}: "
        f"`--budget {format_budget(cut['enough'])}` would be enough for all of them"
    )


def format_budget(seconds: float) -> str:
    """A time as one types it after --budget, rounded up.

    Args:
        seconds: 0 or more.
    """
    return f"{-int(-seconds // 10) * 10}s" if seconds < 110 else f"{-int(-seconds // 60)}m"


def verdict_finding(verdict: Mapping[str, Any], ranks_bases: bool = True) -> Finding:
    """The verdict among the findings.

    Args:
        verdict: the content of verdict.json.
        ranks_bases: whether bases can be compared by one pass over such rows; where not, training from several compares them.
    """
    more = "more rows or more training may help"
    if verdict.get("base"):
        ranking = (
            "`luthier similar` ranks the bases on this machine"
            if ranks_bases
            else "`luthier transfer DATA --from A,B` trains from several and compares them"
        )
        more = f"more rows, more training or a stronger base may help ({ranking})"
    remedies = {"improved": "", "no_evidence": more, "worse": f"{more}; the other findings may name the reason"}
    remedy = "; ".join(part for part in (explain_cut(verdict), remedies[verdict["verdict"]]) if part)
    return Finding(
        check="verdict",
        severity=SEVERITIES[verdict["verdict"]],
        claim=verdict_sentence(verdict),
        evidence=dict(verdict["difference"]),
        remedy=remedy,
    )
