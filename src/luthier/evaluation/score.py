"""A model's scores on held-out examples, whatever the objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.core.interfaces import Objective
from luthier.core.types import HELD_OUT, Example, Scores
from luthier.evaluation.generated_answers import add_answers
from luthier.evaluation.metrics import needs_answers
from luthier.models.memory import retry_halved
from luthier.models.modes import eval_mode


def score(
    model: Any,
    objective: Objective,
    examples: Sequence[Example],
    tokens: int = 8192,
    poll: Callable[[], None] = lambda: None,
    answers: int | None = None,
) -> Scores:
    """Score examples in batches of similar length, and give the results in the examples' order.

    Args:
        model: an `nn.Module`; it is in eval mode meanwhile.
        objective: knows what a batch means.
        examples: held-out rows.
        tokens: that go through the model at once.
        poll: called between batches; it may raise to stop.
        answers: rows that are answered too, where the metric that decides reads answers; None: as many as the objective says.

    Raises:
        OutOfMemory: even one example is too much; batches that are too large for the memory are halved.
    """
    order = sorted(range(len(examples)), key=lambda position: examples[position].size)
    parts: list[list[int]] = [[]]
    total = 0
    for position in order:
        size = examples[position].size
        if parts[-1] and (total + size > tokens or len(parts[-1]) >= 256):
            parts.append([])
            total = 0
        parts[-1].append(position)
        total += size
    results = []
    with eval_mode(model):
        for part in parts:
            poll()
            rows = [examples[position] for position in part]
            results += retry_halved(lambda rows: objective.score(model, objective.collate(rows, 0, HELD_OUT)), rows, "an evaluation")
    scores = join(results, np.argsort(np.array([position for part in parts for position in part]), kind="stable"))
    scores = objective.complete(scores, examples)
    most = objective.answered if answers is None else answers
    return add_answers(scores, model, objective, examples, most, poll) if most and reads_answers(objective, examples) else scores


def reads_answers(objective: Objective, examples: Sequence[Example]) -> bool:
    """Whether the metric that decides reads generated answers."""
    return bool(examples) and objective.writes and needs_answers(objective.metrics[0], True)


def join(parts: Sequence[Scores], order: np.ndarray) -> Scores:
    """Several batches' scores as one, rows in the given order."""

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)[order]

    columns = ("loss", "count", "target", "probabilities", "bytes", "outputs", "references", "groups")
    more = {name: np.concatenate([part.more[name] for part in parts])[order] for name in parts[0].more}
    return Scores(**{name: column(name) for name in columns}, labels=parts[0].labels, more=more)
