"""One self-contained page that says what happened in a run; it reads the run folder and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.pictures import data_url
from luthier.core.run import AGAIN, Run, from_json_value, write_file
from luthier.core.words import plural, several
from luthier.delivery import figures
from luthier.delivery.card import what_is_learned
from luthier.delivery.confidence import describe_confidence
from luthier.delivery.page import collapsible, findings, page, section, table, text, title_of
from luthier.evaluation.metrics import METRICS, describe_metric
from luthier.evaluation.verdict import explain_cut, format_count, format_value, verdict_sentence
from luthier.experiment import Experiment

PICTURE = 128
"""Pixels on a page that a row's picture is wide and high."""
SHOWN_CLASSES = 20
"""Classes whose scores stand open in the report; the others are folded."""
SHOWN_SAMPLES = 6
"""Evaluations whose samples are shown, evenly over the training."""
WORDS = {"improved": "Improved", "no_evidence": "No evidence", "worse": "Worse"}


def write_report(run: Run) -> Path:
    """Write report.html into the run's folder.

    Args:
        run: finished, or far enough to have a verdict.

    Returns:
        The page.
    """
    verdict = run.verdict or {}
    experiment = Experiment.load(run.folder / "experiment.yaml")
    details: dict[str, Any] = run.json("evaluation.json") or {}
    sections = [
        _verdict(verdict),
        _candidates(verdict),
        _data(run, experiment),
        _choices(run, experiment),
        _curves(run, verdict),
        _quality(verdict, details),
        _samples(details),
        _show_generated(run),
        _pictures(details),
        _examples(details),
        findings(run.findings),
        _cost(run, verdict, experiment),
    ]
    name = title_of(experiment.data.path)
    versions = ", ".join(f"{key} {value}" for key, value in experiment.environment.items() if key in ("luthier", "torch", "transformers"))
    footer = f"Experiment {experiment.key[:16]} · seed {experiment.seed} · {text(versions)}"
    whole = page(
        f"{name} · Luthier", name, f"on {experiment.model.base}" if experiment.model.base else "from scratch", "".join(sections), footer
    )
    write_file(run.folder / "report.html", whole, AGAIN)
    return run.folder / "report.html"


def _verdict(verdict: dict[str, Any]) -> str:
    metric = verdict["metric"]
    test = verdict["test"]
    rows = [("what ships", test["value"], test["low"], test["high"])]
    rows += [
        (each["label"], each["test"]["value"], each["test"]["low"], each["test"]["high"])
        for each in verdict.get("candidates", [])
        if not each["chosen"]
    ]
    rows += [
        (verdict[which]["name"], verdict[which]["value"], verdict[which]["low"], verdict[which]["high"])
        for which in (("trivial",) if verdict.get("candidates") else ("base", "trivial"))
        if verdict[which]
    ]
    direction = "more" if verdict["higher_is_better"] else "less"
    about = (
        f"{metric}: {describe_metric(metric)}; {direction} is better. 95 % intervals from 2,000 resamples, the same rows for all. "
        f"The {plural(test['n'], 'test row')} were opened {format_count(verdict['test_opened'])}, after every choice was made."
    )
    if explain_cut(verdict):
        about += f'</p><p class="warning">{text(_sentence(explain_cut(verdict)))}'
    chart = figures.intervals(rows, lambda value: format_value(metric, value)) + _other_baselines(verdict)
    if verdict.get("inexact"):
        about += f'</p><p class="warning">Resumed where something had changed ({text("; ".join(verdict["inexact"]))}): another run of this experiment will not give the same bits.'
    return f'<section class="verdict {verdict["verdict"]}"><h2>{WORDS[verdict["verdict"]]}</h2><p class="claim">{text(verdict_sentence(verdict))}</p>{chart}<p class="about">{about}</p></section>'


def _other_baselines(verdict: dict[str, Any]) -> str:
    """The weaker baselines, and by how much what ships is better than each on the same rows."""
    others = [each for each in verdict.get("others", []) if "difference" in each]
    if not others:
        return ""
    metric = verdict["metric"]

    def format_signed(value: float) -> str:
        return format_value(metric, value, signed=True)

    rows = [
        (
            each["name"],
            f"{format_value(metric, each['value'])} [{format_value(metric, each['low'])}, {format_value(metric, each['high'])}]",
            f"{format_signed(each['difference'][0])} [{format_signed(each['difference'][1])}, {format_signed(each['difference'][2])}]",
        )
        for each in others
    ]
    return table(("weaker baseline", metric, "what ships is better by"), rows)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].replace("`", "") + "."


def _candidates(verdict: dict[str, Any]) -> str:
    """What could have shipped, and what the validation rows chose."""
    if not verdict.get("candidates"):
        return ""
    metric = verdict["metric"]
    rows = [
        (
            each["label"] + (" (ships)" if each["chosen"] else ""),
            format_value(metric, each["validation"][metric]),
            f"{format_value(metric, each['test']['value'])} [{format_value(metric, each['test']['low'])}, {format_value(metric, each['test']['high'])}]",
            *((f"{each['temperature']:.2f}",) if "temperature" in each else ()),
        )
        for each in verdict["candidates"]
    ]
    head = ("candidate", f"validation {metric}", f"test {metric}", "temperature")
    return section(
        "What ships",
        table(head[: len(rows[0])], rows),
        f"{text(_sentence(verdict['why']))} The validation rows choose, before the test rows are opened.",
    )


def _data(run: Run, experiment: Experiment) -> str:
    splits = run.json("splits.json")
    rows: Any = splits["rows"]
    objective: Any = experiment.objective
    facts = [
        ("file", ", ".join(Path(path).name for path in (experiment.data.path, experiment.data.validation, experiment.data.test) if path)),
        ("task", experiment.data.task),
        ("reads", " + ".join(experiment.data.input)),
        ("learns", what_is_learned(experiment)),
        ("rows", ", ".join(f"{len(rows[part]):,} {part}" for part in ("train", "validation", "test"))),
        ("split", splits["how"]),
        ("set aside", f"{plural(len(run.lines('rejected.jsonl')), 'row')} (rejected.jsonl)"),
    ]
    labels = getattr(objective, "labels", ())
    if labels:
        facts.append(("classes", f"{len(labels)}: {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}"))
    return section("The data", table(("", ""), facts))


def _choices(run: Run, experiment: Experiment) -> str:
    created = run.events_named("created")[0]
    rows = [(choice["path"], choice["value"], choice["reason"]) for choice in created["choices"] if choice["path"] != "data.task"]
    rows.append(("training.dtype", experiment.training.dtype, "decided by the machine, before step one"))
    stopped = run.events_named("stopped_by_watcher")
    if stopped:
        rows.append(("training.steps", stopped[-1]["step"], f"of {stopped[-1]['total']:,}: a watcher ended the training there"))
    cut = run.events_named("cut_to_budget")
    if cut:
        rows.append(("training.steps", cut[-1]["steps"], f"of {cut[-1]['wanted']:,}: what the budget of {cut[-1]['budget']:.0f} s leaves"))
    return section(
        "The choices",
        table(("field", "value", "reason"), rows),
        "Every field is in experiment.yaml; change one with <code>--set path=value</code>.",
    )


def _curves(run: Run, verdict: dict[str, Any]) -> str:
    lines = from_json_value(run.lines("metrics.jsonl"))
    steps = [line for line in lines if "loss" in line and math.isfinite(line["loss"])]
    looks = [line for line in lines if "evaluation" in line]
    if not steps:
        return ""
    smooth, average = [], None
    for line in steps:
        average = line["loss"] if average is None else 0.9 * average + 0.1 * line["loss"]
        smooth.append((line["step"], average))
    validation = [(line["step"], line["evaluation"]["loss"]) for line in looks]
    gaps = []
    at = dict(smooth)
    for step, value in validation:
        if step in at:
            gaps.append((step, value - at[step]))
    mark = (verdict["checkpoint"], f"chosen: step {verdict['checkpoint']}")
    metric = verdict["metric"]
    body = "<h3>Loss</h3>" + figures.lines({"training (smoothed)": smooth, "validation": validation}, "step", "loss", mark)
    if metric != "loss":
        body += f"<h3>Validation {metric}</h3>" + figures.lines(
            {metric: [(line["step"], line["evaluation"][metric]) for line in looks]}, "step", metric, mark
        )
    body += "<h3>Gap between validation and training loss</h3>" + figures.lines({"gap": gaps}, "step", "gap", mark, zero=True)
    body += "<h3>Learning rate</h3>" + figures.lines(
        {"learning rate": [(line["step"], line["lr"]) for line in steps]}, "step", "rate", zero=True
    )
    return section(
        "The run",
        body,
        "A gap that grows while the validation loss rises is overfitting; the chosen checkpoint is the best on the validation rows.",
    )


def _quality(verdict: dict[str, Any], details: dict[str, Any]) -> str:
    numbers = {name: value for name, value in verdict["test"].items() if name in METRICS or ":" in name}
    body = table(
        ("on the test rows", ""),
        [
            (describe_metric(name), format_value(name, value))
            for name, value in {verdict["metric"]: verdict["test"]["value"], **numbers}.items()
        ],
    )
    if verdict.get("answers"):
        body += _answers(verdict)
    if "rouge_l" in details:
        body += f"<p>ROUGE-L against the references of {plural(details['rouge_l']['n'], 'short test row')}: {details['rouge_l']['value']:.3f}.</p>"
    if "confusion" in details:
        labels = details["labels"]
        rows = [
            (part["label"], part["n"], f"{part['precision']:.3f}", f"{part['recall']:.3f}", f"{part['f1']:.3f}")
            for part in sorted(details["per_class"], key=lambda part: part["f1"])
        ]
        body += "<h3>Each class, the weakest first</h3>" + _classes(rows)
        if len(labels) <= 30:
            body += "<h3>What was taken for what</h3>" + figures.grid(details["confusion"], labels)
        else:
            mistakes = sorted(
                (
                    (count, labels[i], labels[j])
                    for i, row in enumerate(details["confusion"])
                    for j, count in enumerate(row)
                    if i != j and count
                ),
                reverse=True,
            )[:15]
            body += "<h3>The most frequent mistakes</h3>" + table(
                ("true", "said", "rows"), [(true, predicted, count) for count, true, predicted in mistakes]
            )
    body += describe_confidence(details)
    for each in details.get("tables", ()):
        body += f"<h3>{text(each['title'])}</h3>" + table(each["head"], each["rows"])
    for each in details.get("figures", ()):
        body += f'<h3>{text(each["title"])}</h3><p class="about">{text(each["about"])}</p>' + figures.draw_figure(each)
    if details.get("truncated"):
        body += f'<p class="warning">{several(details["truncated"], "test row", "were longer than objective.max_length and cut at the end")}.</p>'
    return section("How good it is", body)


def _answers(verdict: dict[str, Any]) -> str:
    """Every metric that reads the answers, with its interval, against the strongest baseline."""
    first = {"metric": verdict["metric"], **verdict["test"], "difference": verdict["difference"]}
    rows = [(each["metric"], _between(each["metric"], each), _between(each["metric"], each["difference"], signed=True))
            for each in (first, *verdict["answers"])]  # fmt: skip
    return "<h3>What it writes</h3>" + table(("metric", "what ships", f"against {verdict['difference']['name']}"), rows)


def _between(metric: str, interval: dict[str, Any], signed: bool = False) -> str:
    """A value with its interval."""
    return f"{format_value(metric, interval['value'], signed)} [{format_value(metric, interval['low'], signed)}, {format_value(metric, interval['high'], signed)}]"


def _classes(rows: Sequence[Sequence[Any]]) -> str:
    """A table of all classes; of many only the weakest are open to view."""
    head = ("class", "rows", "precision", "recall", "F1")
    if len(rows) <= SHOWN_CLASSES:
        return table(head, rows)
    rest = rows[SHOWN_CLASSES:]
    return table(head, rows[:SHOWN_CLASSES]) + collapsible(f"the other {plural(len(rest), 'class')}", table(head, rest))


def _samples(details: dict[str, Any]) -> str:
    if not details.get("samples"):
        return ""
    cards = "".join(
        f'<article><p class="asked">{text(row["asked"][:900])}</p><dl><dt>before</dt><dd>{text(row["before"])}</dd><dt>after</dt><dd>{text(row["after"])}</dd><dt>reference</dt><dd class="soft">{text(row["expected"][:900])}</dd></dl></article>'
        for row in details["samples"]
    )
    return section("What it says, before and after", cards, "The same validation prompts; the likeliest token each time.")


def _show_generated(run: Run) -> str:
    """What the model said at each evaluation of the same rows, where that is words."""
    lines = [line for line in run.lines("samples.jsonl") if "when" not in line and "said" in line]
    if not lines:
        return ""
    cards = []
    for row in dict.fromkeys(line["row"] for line in lines):
        own = [line for line in lines if line["row"] == row]
        answers = "".join(f"<dt>step {line['step']:,}</dt><dd>{text(line['said'])}</dd>" for line in _evenly(own))
        cards.append(f'<article><p class="asked">{text(own[0]["asked"])}</p><dl>{answers}</dl></article>')
    return section("What it says, through the training", "".join(cards), "The same beginnings of validation rows at each evaluation.")


def _evenly(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of the lines, evenly over all, the first and the last among them."""
    count = min(len(lines), SHOWN_SAMPLES)
    return [lines[round(index * (len(lines) - 1) / max(count - 1, 1))] for index in range(count)]


def _pictures(details: dict[str, Any]) -> str:
    """Rows that a family shows as pictures, each with its caption."""
    shown_rows = details.get("pictures")
    if not shown_rows:
        return ""

    def draw(image: dict[str, Any]) -> str:
        return f'<img alt="{text(image["name"])}" title="{text(image["name"])}" width="{PICTURE}" height="{PICTURE}" style="image-rendering:pixelated" src="{data_url(image)}">'

    cards = "".join(
        f"<article><p>{' '.join(draw(image) for image in row['images'])}</p><p>{text(row['caption'])}</p></article>"
        for row in shown_rows["rows"]
    )
    return section(text(shown_rows["title"]), cards, text(shown_rows["about"]))


def _examples(details: dict[str, Any]) -> str:
    def cards(rows: Sequence[dict[str, Any]]) -> str:
        made = []
        for row in rows:
            sure = f" ({row['confidence']:.0%} sure)" if "confidence" in row else ""
            sentence = (
                f"said <b>{text(row['said'])}</b>{sure}, is <b>{text(row['target'])}</b>"
                if "said" in row
                else f'<span class="soft">{text(row["target"])}</span>'
            )
            made.append(
                f'<article><p>{text(" · ".join(row["input"]))}</p><p>{sentence}</p><p class="soft">{text(row["file"])}, line {row["line"]} · loss {from_json_value(row["loss"]):.3f}, {text(details["other"])} {from_json_value(row["other_loss"]):.3f}</p></article>'
            )
        return "".join(made)

    if not details.get("worst"):
        return ""
    return section(
        "Rows",
        f"<details open><summary>the worst</summary>{cards(details['worst'])}</details><details><summary>the best</summary>{cards(details['best'])}</details>",
    )


def _cost(run: Run, verdict: dict[str, Any], experiment: Experiment) -> str:
    steps = [line for line in run.lines("metrics.jsonl") if "tokens" in line]
    training = sum(line["seconds"] for line in run.lines("timing.jsonl"))
    tokens, examples = sum(line["tokens"] for line in steps), sum(line["examples"] for line in steps)
    planned = run.events_named("planned")
    budget = run.events_named("created")[-1]["budget"] if run.events_named("created") else None
    facts = [
        ("whole run", f"{verdict['seconds']:.0f} s" + (f" of a budget of {budget:.0f} s" if budget else "")),
        ("training steps alone", f"{training:.0f} s for {plural(len(steps), 'step')}"),
        ("forecast of training", f"{planned[-1]['forecast']['seconds']:.0f} s" if planned else "none"),
        ("speed", f"{examples / max(training, 1e-9):,.0f} rows/s, {tokens / max(training, 1e-9):,.0f} tokens/s"),
        ("on", ", ".join(str(experiment.environment.get(name)) for name in ("device", "processor"))
         + f", {experiment.environment.get('threads')} threads, {experiment.training.dtype}"),
    ]  # fmt: skip
    return section("Cost", table(("", ""), facts))
