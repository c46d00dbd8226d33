"""A study as one self-contained page; it reads the study's folder and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from luthier.core.run import AGAIN, write_file
from luthier.core.study import Study
from luthier.core.words import duration, plural
from luthier.delivery import figures
from luthier.delivery.page import findings, page, section, table, text, title_of
from luthier.evaluation.contributions import comparison_metric, value_of_score
from luthier.evaluation.verdict import verdict_sentence


def write_study(study: Study) -> Path:
    """Write report.html into the study's folder.

    Args:
        study: far enough to have a winner.

    Returns:
        The page.
    """
    plan = yaml.safe_load((study.folder / "plan.yaml").read_text())
    experiment = yaml.safe_load((study.folder / "experiment.yaml").read_text())
    trials = study.entries_named("proposed")
    metric = experiment["training"].get("metric", "auto")
    compared = comparison_metric(metric)
    standings = [
        {**entry, "value": value_of_score(metric, entry["score"])}
        for entry in study.entries_named("standing")
        if isinstance(entry["score"], int | float)
    ]
    won = study.entries_named("won")[-1]["trial"]
    body = [_outcome(study, won), findings([finding for finding in study.findings if finding.check.startswith("search")])]
    if plan["rungs"]:
        body += [
            _trials(study, plan, trials, standings, won, compared),
            _curves(standings, won, compared),
            _space(plan, trials, standings, won, compared),
        ]
    body += [_reasons(plan, experiment, trials[won]["values"] if trials else {}), _near(study), _cost(study, plan, standings)]
    name = title_of(experiment["data"]["path"])
    write_file(
        study.folder / "report.html",
        page(f"{name} · searched by Luthier", name, f"searched, {plural(plan['trials'], 'trial')}", "".join(body)),
        AGAIN,
    )
    return study.folder / "report.html"


def _outcome(study: Study, won: int) -> str:
    verdict = study.verdict
    claim = verdict_sentence(verdict) if verdict else "the final model is not finished"
    winner = study.winner
    path = winner.folder.relative_to(study.folder) if winner else ""
    link = f'<a href="{path}/report.html">The whole report of trial {won}</a>, which is the final model.'
    kind = verdict["verdict"] if verdict else ""
    return f'<section class="verdict {text(kind)}"><h2>Trial {won} was chosen</h2><p class="claim">{text(claim)}</p><p class="about">{link}</p></section>'


def _format_short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _trials(
    study: Study, plan: dict[str, Any], trials: list[dict[str, Any]], standings: list[dict[str, Any]], won: int, compared: str
) -> str:
    shares = sorted({entry["share"] for entry in standings})
    value_of = {(entry["trial"], entry["share"]): entry["value"] for entry in standings}
    why = {int(trial): reason for entry in study.entries_named("rung") for trial, reason in entry["reasons"].items()}
    why |= {entry["trial"]: f"failed: {entry['why']}" for entry in study.entries_named("standing") if entry["why"]}
    why[won] = "the final model"
    paths = [dimension["path"] for dimension in plan["space"]]
    head = [
        "trial",
        "by",
        *(path.split(".")[-1] for path in paths),
        *(f"{compared} after {share:.0%}" for share in shares),
        "what became of it",
    ]
    rows = [
        [entry["trial"], entry["by"], *(_format_short(entry["values"].get(path, "–")) for path in paths),
         *(f"{value_of[entry['trial'], share]:.4f}" if (entry["trial"], share) in value_of else "" for share in shares), why.get(entry["trial"], "")]
        for entry in trials
    ]  # fmt: skip
    return section(
        "The trials", table(head, rows), "Each on the same rows in the same order. A trial that goes on continues where it stood."
    )


def _curves(standings: list[dict[str, Any]], won: int, compared: str) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in standings:
        series.setdefault(f"trial {entry['trial']}", []).append((entry["share"], entry["value"]))
    cost, at, leading, best = 0.0, dict.fromkeys((entry["trial"] for entry in standings), 0.0), [], math.inf
    for entry in standings:
        cost += entry["share"] - at[entry["trial"]]
        at[entry["trial"]] = entry["share"]
        best = min(best, entry["score"])
        leading.append((cost, best if compared == "loss" or entry["value"] == entry["score"] else -best))
    body = f"<h3>Validation {compared} at the rungs</h3>" + figures.fan(series, f"trial {won}", "share of a run", f"validation {compared}")
    body += "<h3>Best so far against cost</h3>" + figures.lines({"best so far": leading}, "cost in runs", f"validation {compared}")
    return section("The race", body)


def _space(plan: dict[str, Any], trials: list[dict[str, Any]], standings: list[dict[str, Any]], won: int, compared: str) -> str:
    last = {entry["trial"]: entry["score"] for entry in standings}
    evaluated = [entry for entry in trials if entry["trial"] in last]
    axes = []
    for dimension in plan["space"]:
        path, values = dimension["path"], [entry["values"].get(dimension["path"]) for entry in evaluated]
        axes.append((path.split(".")[-1], ["–" if value is None else _format_short(value) for value in values], _places(dimension, values)))
    first = {entry["trial"]: entry["value"] for entry in reversed(standings)}
    losses = [first[entry["trial"]] for entry in evaluated]
    low, high = min(losses), max(losses)
    axes.append(
        (f"{compared} at the first rung", [f"{loss:.3f}" for loss in losses], [(loss - low) / ((high - low) or 1) for loss in losses])
    )
    best = next((index for index, entry in enumerate(evaluated) if entry["trial"] == won), 0)
    return section("The space", figures.parallel(axes, [f"trial {entry['trial']}" for entry in evaluated], best))


def _places(dimension: dict[str, Any], values: list[Any]) -> list[float]:
    """Where each value lies between its bounds; at the foot where a trial has no such field."""
    if dimension["kind"] == "choice":
        scaled = [None if value is None else float(dimension["options"].index(value)) for value in values]
    else:
        scaled = [None if value is None else math.log(value) if dimension["kind"] == "log" else float(value) for value in values]
    there = [value for value in scaled if value is not None]
    if not there:
        return [0.0] * len(values)
    low, high, foot = min(there), max(there), 0.15 if len(there) < len(values) else 0.0
    return [0.0 if value is None else foot + (1 - foot) * (value - low) / ((high - low) or 1) for value in scaled]


def _reasons(plan: dict[str, Any], experiment: dict[str, Any], values: dict[str, Any]) -> str:
    rows = []
    for dimension in plan["space"]:
        if dimension["path"] not in values:
            rows.append(
                [dimension["path"], "–", f"searched; not there where {', '.join(dimension['when'])} is another ({dimension['why']})"]
            )
            continue
        chosen, centre = values[dimension["path"]], dimension["centre"]
        became = "kept at the default" if chosen == centre else f"the default is {_format_short(centre)}"
        rows.append([dimension["path"], _format_short(chosen), f"searched; {became} ({dimension['why']})"])
    for path, why in plan["stay"].items():
        setting: Any = experiment
        for part in path.split("."):
            setting = setting.get(part, "") if isinstance(setting, dict) else ""
        rows.append([path, _format_short(setting), f"not searched: {why}"])
    return section("Why these values", table(["hyperparameter", "value", "why"], rows))


def _near(study: Study) -> str:
    """What one pass over the rows said of freezing, where it was asked."""
    file = study.folder / "similar.json"
    if not file.exists():
        return ""
    similarity = json.loads(file.read_text())
    rows = [
        [floor["blocks"] or "embeddings", f"{floor['neighbours']:.1%}", f"{floor['probe']:.1%}", f"{floor['h_score']:.3f}"]
        for floor in similarity["floors"]
    ]
    body = table(["behind block", "nearest neighbours", "probe", "H-score"], rows) if rows else ""
    return section(
        "How near the task is",
        body,
        f"{similarity['near']['reason']}. Freeze {similarity['depth']['blocks']}: {similarity['depth']['reason']}.",
    )


def _cost(study: Study, plan: dict[str, Any], standings: list[dict[str, Any]]) -> str:
    seconds = sum(entry["seconds"] for entry in study.entries_named("standing"))
    finished = study.events_named("finished")
    facts = [
        ("planned, with the final model", f"{plan['cost_in_runs']:.2f} runs"),
        ("trials up to the last rung", duration(seconds)),
        ("everything", duration(finished[-1]["seconds"]) if finished else "not finished"),
        ("shared by all trials", "reading, checks, split, tokenisation, proofs, the small run"),
    ]
    return section("Cost", table(("", ""), facts))
