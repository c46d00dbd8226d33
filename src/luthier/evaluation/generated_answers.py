"""Answers that a model generates for a few held-out rows, for the metrics that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.types import Example, Scores

ANSWERED = 32
"""Validation rows that are answered at each evaluation."""
ANSWERED_AT_VERDICT = 128
"""Test rows that each model of the verdict answers: four times as many halve the interval."""
LONGEST_REFERENCE, LONGEST_PROMPT = 64, 512
"""Tokens: rows with longer ones are answered only where there are no others."""
AT_ONCE = 16


def rows_to_answer(examples: Sequence[Example], most: int) -> list[int]:
    """The same rows each time: of those with short enough prompts and references, evenly over all.

    Args:
        examples: held-out conversations.
        most: so many at most.
    """
    whole = [row for row, example in enumerate(examples) if example.units and not example.facts.get("cut", 0)]
    short = [row for row in whole if answer_length(examples[row]) <= LONGEST_REFERENCE and len(prompt_of(examples[row])) <= LONGEST_PROMPT]
    if not short:
        return sorted(sorted(whole, key=lambda row: examples[row].size)[:most])
    return [short[number * len(short) // min(most, len(short))] for number in range(min(most, len(short)))]


def add_answers(
    scores: Scores, model: Any, tokenizer: Any, examples: Sequence[Example], most: int, poll: Callable[[], None] = lambda: None
) -> Scores:
    """The scores with the model's greedy answers to some rows, and these rows' references.

    Args:
        scores: of the same rows.
        model: the language model.
        tokenizer: its tokenizer.
        examples: held-out conversations.
        most: rows that are answered.
        poll: called between batches; it may raise to stop.
    """
    from luthier.models.generate import generate_answers

    rows = sorted(rows_to_answer(examples, most), key=lambda row: len(prompt_of(examples[row])))
    outputs = np.full(len(examples), None, dtype=object)
    for start in range(0, len(rows), AT_ONCE):
        poll()
        part = rows[start : start + AT_ONCE]
        limit = min(LONGEST_REFERENCE, max(answer_length(examples[row]) for row in part)) + 8
        outputs[part] = generate_answers(model, tokenizer, [prompt_of(examples[row]) for row in part], limit)
    return replace(scores, outputs=outputs, references=references_of(examples))


def references_of(examples: Sequence[Example]) -> np.ndarray:
    """What the assistant was to say last in each row, # (examples,)"""
    found = np.empty(len(examples), dtype=object)
    found[:] = [example.facts["messages"][-1]["content"] for example in examples]
    return found


def prompt_of(example: Example) -> list[int]:
    """The tokens before the last answer; of a row that holds several conversations those that its objective has named."""
    if "prompt" in example.facts:
        return list(example.facts["prompt"])
    end = len(example.target) - 1
    while end >= 0 and not example.target[end]:
        end -= 1
    while end >= 0 and example.target[end]:
        end -= 1
    return example.tokens[: end + 1]


def answer_length(example: Example) -> int:
    """Tokens of the answer to that prompt."""
    start = len(prompt_of(example))
    return next((place for place, learned in enumerate(example.target[start:]) if not learned), len(example.target) - start)
