"""Answers that a model generates for a few held-out rows, for the metrics that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.interfaces import Objective
from luthier.core.types import Example, Scores

ANSWERED = 32
"""Validation rows that are answered at each evaluation, where the objective says nothing else."""
ANSWERED_AT_VERDICT = 128
"""Test rows that each model of the verdict answers, where the objective says nothing else: four times as many halve the interval."""
LONGEST_REFERENCE, LONGEST_PROMPT = 64, 512
"""Tokens: rows with longer ones are answered only where there are no others."""
AT_ONCE = 16


def rows_to_answer(examples: Sequence[Example], most: int, lengths: Callable[[Example], tuple[int, int]]) -> list[int]:
    """The same rows each time: of those with short enough prompts and references, evenly over all.

    Args:
        examples: held-out rows.
        most: so many at most.
        lengths: tokens of a row's prompt and of its reference.
    """
    whole = [row for row, example in enumerate(examples) if example.units and not example.facts.get("cut", 0)]
    sizes = {row: lengths(examples[row]) for row in whole}
    short = [row for row in whole if sizes[row][0] <= LONGEST_PROMPT and sizes[row][1] <= LONGEST_REFERENCE]
    if not short:
        return sorted(sorted(whole, key=lambda row: examples[row].size)[:most])
    return [short[index * len(short) // min(most, len(short))] for index in range(min(most, len(short)))]


def add_answers(
    scores: Scores, model: Any, objective: Objective, examples: Sequence[Example], most: int, poll: Callable[[], None] = lambda: None
) -> Scores:
    """The scores with the model's answers to some rows, and these rows' references.

    Args:
        scores: of the same rows.
        model: that writes.
        objective: knows how it is asked.
        examples: held-out rows.
        most: rows that are answered.
        poll: called between batches; it may raise to stop.
    """
    rows = sorted(objective.rows_to_answer(examples, most), key=lambda row: objective.lengths(examples[row])[0])
    outputs = np.full(len(examples), None, dtype=object)
    for start in range(0, len(rows), objective.answered_together):
        poll()
        part = rows[start : start + objective.answered_together]
        longest = max(objective.lengths(examples[row])[1] for row in part)
        outputs[part] = objective.answer(model, [examples[row] for row in part], min(LONGEST_REFERENCE, longest) + 8)
    return replace(scores, outputs=outputs, references=references_of(objective, examples))


def references_of(objective: Objective, examples: Sequence[Example]) -> np.ndarray:
    """What was to be said in each row, # (examples,)"""
    references = np.empty(len(examples), dtype=object)
    references[:] = [objective.reference(example) for example in examples]
    return references
