"""What a model that writes says, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.types import Example
from luthier.evaluation.overlap import rouge_l
from luthier.pilot.stages.context import RunContext
from luthier.training.steps import Work

SHOWN = 8
"""Answers that are written at each occasion."""
LONGEST = 96
"""Tokens that such an answer may have."""


def choose_samples(examples: Sequence[Example]) -> list[Example]:
    """A few examples whose prompts and answers are short enough to be shown."""
    return sorted(examples, key=lambda example: example.size)[len(examples) // 8 :][:SHOWN]


def write_samples(context: RunContext, work: Work, when: str) -> list[dict[str, Any]]:
    """What the model answers to a few validation prompts."""
    earlier = [line for line in context.run.lines("samples.jsonl") if line.get("when") == when]
    if earlier:
        return earlier
    objective, examples = work.objective, choose_samples(work.validation)
    limit = min(LONGEST, max(objective.lengths(example)[1] for example in examples) + 8)
    answers = objective.answer(work.model, examples, limit)
    lines = [{"step": 0, "when": when, "row": example.record.row, "asked": objective.prompt_text(example), "expected": objective.reference(example), "said": text}
             for example, text in zip(examples, answers, strict=True)]  # fmt: skip
    context.run.append("samples.jsonl", *lines)
    return lines


def compare_answers(context: RunContext, work: Work, test: Sequence[Example]) -> dict[str, Any]:
    """The same prompts after training; and ROUGE-L on test rows whose references are short."""
    before, after = write_samples(context, work, "before"), write_samples(context, work, "after")
    samples = [{**then, "after": now["said"], "before": then["said"]} for then, now in zip(before, after, strict=True)]
    details: dict[str, Any] = {"samples": samples}
    objective = work.objective
    lengths = [objective.lengths(example)[1] for example in test]
    if (
        "rouge_l" in context.family.metrics and float(np.median(lengths)) <= 64 and not context.run.events_named("probe_rows")
    ):  # there: no time for it
        few = choose_samples(test)
        answers = objective.answer(work.model, few, LONGEST)
        values = [rouge_l(text, objective.reference(example)) for text, example in zip(answers, few, strict=True)]
        details["rouge_l"] = {"value": float(np.mean(values)), "n": len(values)}
    return details
