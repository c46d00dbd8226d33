"""The model card: what a stranger needs to know before using the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.words import plural
from luthier.delivery.page import title_of
from luthier.evaluation.verdict import sentence, shown, times
from luthier.experiment import Experiment
from luthier.models.catalogue import PACKAGED
from luthier.models.store import Base


def write_card(experiment: Experiment, base: Base, verdict: Mapping[str, Any], rows: Mapping[str, int]) -> str:
    """README.md of a bundle, with the metadata that model hubs read."""
    task = experiment.data.task
    pipeline = "text-classification" if task == "classification" else "text-generation"
    known = PACKAGED.get(base.name)
    metric = verdict["metric"]
    objective: Any = experiment.objective
    labels = f"- Classes: {', '.join(objective.labels)}\n" if task == "classification" else ""
    use = (
        'pipeline("text-classification", "PATH")("your text")'
        if task == "classification"
        else 'pipeline("text-generation", "PATH")([{"role": "user", "content": "…"}])'
    )
    return f"""---
base_model: {base.name}
pipeline_tag: {pipeline}
library_name: transformers
{f"license: {known.licence.lower()}" if known else "license: other"}
{f"language: {known.language}" if known else ""}
tags: [luthier]
---
# {title_of(experiment.data.path)}, from {base.name}

{sentence(verdict)}

| | {metric} on {plural(verdict["test"]["n"], "test row")} | 95 % interval |
|---|---|---|
| this model | {shown(metric, verdict["test"]["value"])} | {shown(metric, verdict["test"]["low"])} – {shown(metric, verdict["test"]["high"])} |
| base: {verdict["base"]["name"]} | {shown(metric, verdict["base"]["value"])} | {shown(metric, verdict["base"]["low"])} – {shown(metric, verdict["base"]["high"])} |
| trivial: {verdict["trivial"]["name"]} | {shown(metric, verdict["trivial"]["value"])} | {shown(metric, verdict["trivial"]["low"])} – {shown(metric, verdict["trivial"]["high"])} |

- Task: {task}; reads {" + ".join(experiment.data.input)}, learned {experiment.data.target}
{labels}- Rows: {rows["train"]:,} train, {rows["validation"]:,} validation, {rows["test"]:,} test (opened {times(verdict["test_opened"])})
- Data (SHA-256): {", ".join(value[:16] for value in experiment.data.fingerprint.values())}
- Experiment: {experiment.key[:16]}

## Use

```
luthier predict PATH "your text"
```

or, without Luthier: `from transformers import pipeline; {use}`

## Limits

It has seen only rows like those it was trained on. The test rows come from the same source; other sources may be
harder. Nothing has been measured about how it treats groups of people.
"""
