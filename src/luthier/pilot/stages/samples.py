"""What a chat model answers, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.types import Example
from luthier.evaluation.generated_answers import answer_length, prompt_of
from luthier.evaluation.overlap import rouge_l
from luthier.models.generate import generate_answers
from luthier.pilot.stages.context import RunContext
from luthier.training.steps import Work

SHOWN = 8
"""Answers that are written at each occasion."""


def choose_samples(examples: Sequence[Example]) -> list[Example]:
    """A few examples whose prompts and answers are short enough to be shown."""
    return sorted(examples, key=lambda example: example.size)[len(examples) // 8 :][:SHOWN]


def write_samples(context: RunContext, work: Work, when: str) -> list[dict[str, Any]]:
    """What the model answers to a few validation prompts."""
    kept = [line for line in context.run.lines("samples.jsonl") if line.get("when") == when]
    if kept:
        return kept
    shown = choose_samples(work.validation)
    limit = min(96, max(answer_length(example) for example in shown) + 8)
    said = generate_answers(work.model, context.tokenizer, [prompt_of(example) for example in shown], limit)
    lines = [{"step": 0, "when": when, "row": example.record.row, "asked": example.facts["messages"][-2]["content"], "expected": example.facts["messages"][-1]["content"], "said": text}
             for example, text in zip(shown, said, strict=True)]  # fmt: skip
    context.run.append("samples.jsonl", *lines)
    return lines


def compare_answers(context: RunContext, work: Work, test: Sequence[Example]) -> dict[str, Any]:
    """The same prompts after training; and ROUGE-L on test rows whose references are short."""
    before, after = write_samples(context, work, "before"), write_samples(context, work, "after")
    shown = [{**then, "after": now["said"], "before": then["said"]} for then, now in zip(before, after, strict=True)]
    found: dict[str, Any] = {"samples": shown}
    lengths = [answer_length(example) for example in test]
    if float(np.median(lengths)) <= 64 and not context.run.events_named("probe_rows"):  # there: no time for it
        few = choose_samples(test)
        said = generate_answers(work.model, context.tokenizer, [prompt_of(example) for example in few], 96)
        values = [rouge_l(text, example.facts["messages"][-1]["content"]) for text, example in zip(said, few, strict=True)]
        found["rouge_l"] = {"value": float(np.mean(values)), "n": len(values)}
    return found
