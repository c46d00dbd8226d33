"""The model card: what a stranger needs to know before using the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.words import plural
from luthier.delivery.page import title_of
from luthier.evaluation.verdict import format_count, format_value, verdict_sentence
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.models.catalogue import PACKAGED

HEADS = ("classes", "labels", "number")
"""What families give whose head transformers has too."""


def write_card(experiment: Experiment, base: Base | None, verdict: Mapping[str, Any], rows: Mapping[str, int]) -> str:
    """README.md of a bundle, with the metadata that model hubs read."""
    family = family_of(experiment.data.task)
    known = PACKAGED.get(base.name) if base is not None else None
    origin = base.name if base is not None else "scratch"
    metric = verdict["metric"]
    objective: Any = experiment.objective
    labels = f"- Classes: {', '.join(objective.labels)}\n" if getattr(objective, "labels", ()) else ""
    ships = verdict.get("ships", "trained")
    return f"""---
{f"base_model: {base.name}" if base is not None else ""}
pipeline_tag: {family.pipeline_tag}
library_name: {family.library if ships == "trained" else "luthier"}
{f"license: {known.licence.lower()}" if known else "license: other"}
{f"language: {known.language}" if known else ""}
tags: [luthier]
---
# {title_of(experiment.data.path)}, from {origin}

{verdict_sentence(verdict)}

| | {metric} on {plural(verdict["test"]["n"], "test row")} | 95 % interval |
|---|---|---|
{_scores(verdict)}

- Task: {family.name}; reads {" + ".join(experiment.data.input)}, learned {what_is_learned(experiment)}
{labels}{_describe_shipped(verdict)}{_inexact(verdict)}- Rows: {rows["train"]:,} train, {rows["validation"]:,} validation, {rows["test"]:,} test (opened {format_count(verdict["test_opened"])})
- Data (SHA-256): {", ".join(value[:16] for value in experiment.data.fingerprint.values())}
- Experiment: {experiment.key[:16]}

## Use

```
{family.usage("PATH")}
```

{_without_luthier(family, ships, verdict, objective)}{_describe_servers(family, ships, experiment.training.dtype)}

## Limits

It has seen only rows like those it was trained on. The test rows come from the same source; other sources may be
harder. Nothing has been measured about how it treats groups of people.
"""


def what_is_learned(experiment: Experiment) -> str:
    """The column that is learned; or that rows are their own target, and which of them, where a class is known and not learned."""
    data = experiment.data
    if family_of(data.task).kind.learns != "nothing":
        return data.target or "from itself"
    return f"from itself, from rows whose {data.target} is {data.normal}" if data.target and data.normal else "from itself"


def _scores(verdict: Mapping[str, Any]) -> str:
    """What ships, what else could have shipped, and the baselines, each with its interval on the test rows."""
    metric = verdict["metric"]
    rows = [("this model", verdict["test"])]
    rows += [(f"not shipped: {each['label']}", each["test"]) for each in verdict.get("candidates", []) if not each["chosen"]]
    rows += [
        (verdict[which]["name"], verdict[which])
        for which in (("trivial",) if verdict.get("candidates") else ("base", "trivial"))
        if verdict[which]
    ]
    return "\n".join(
        f"| {label} | {format_value(metric, interval['value'])} | {format_value(metric, interval['low'])} – {format_value(metric, interval['high'])} |"
        for label, interval in rows
    )


def _describe_shipped(verdict: Mapping[str, Any]) -> str:
    """What the bundle holds, where candidates were compared."""
    chosen = next((each for each in verdict.get("candidates", []) if each["chosen"]), None)
    if chosen is None:
        return ""
    sure = f" Its probabilities are calibrated on them (temperature {chosen['temperature']:g})" if "temperature" in chosen else ""
    return f"- Holds {chosen['label']}: the validation rows chose it{'.' if sure else ''}{sure}\n"


def _inexact(verdict: Mapping[str, Any]) -> str:
    """What had changed when the run was resumed all the same."""
    changed = verdict.get("inexact")
    return (
        f"- Resumed where something had changed, so that another run will not give the same bits: {'; '.join(changed)}\n" if changed else ""
    )


def _describe_servers(family: Family, ships: str, dtype: str) -> str:
    """How a server for many machines serves the bundle, where one can."""
    command = family.serve_elsewhere("PATH", dtype) if ships == "trained" else ""
    return f"\n\nMore than one machine can serve: `{command}` (vLLM), with OpenAI's routes." if command else ""


def _without_luthier(family: Family, ships: str, verdict: Mapping[str, Any], objective: Any) -> str:
    """What transformers alone can and cannot do with the bundle."""
    if ships == "trained" and family.gives in HEADS and getattr(objective, "pooling", "") == "mean":
        return """The head reads the mean of all tokens, and that of transformers the first one: `pipeline("text-classification", "PATH")` would say something else. Without
Luthier: `luthier export PATH --to onnx`."""
    if ships == "trained":
        return f"or, without Luthier: `{family.without_luthier()}`" if family.without_luthier() else ""
    if ships == "average":
        trained = next(each for each in verdict["candidates"] if each["name"] == "trained")
        metric = trained["test"]["metric"]
        calibrated = "calibrated " if "temperature" in trained else ""
        return f"""The average needs Luthier. Without it, `pipeline("text-classification", "PATH")` of transformers loads one of the two: the trained model alone,
{calibrated}({metric} on the test rows {format_value(metric, trained["test"]["value"])}). The other is in `base/` (the untouched base) and `probe.safetensors` (its classifier).
`luthier run DATA --base PATH` trains the trained model further."""
    what = {"labels": "labels", "number": "numbers"}.get(family.gives, "classes")
    return f"""The {what} need Luthier: `model.safetensors` is the untouched base, and `probe.safetensors` the matrix that makes {what} of its hidden states
(`probe.json` says which). `AutoModel.from_pretrained("PATH")` of transformers loads the base; `pipeline("text-classification", "PATH")` fails, because there is no
head. `luthier run DATA --base PATH` trains on the untouched base."""
