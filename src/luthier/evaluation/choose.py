"""Which of several classifiers the validation rows favour."""

from __future__ import annotations

from collections.abc import Mapping

from luthier.core.types import Scores
from luthier.evaluation.metrics import METRICS, measure


def choose(candidates: Mapping[str, Scores], metric: str) -> str:
    """The one with the best metric; of equal ones that with the least loss, then the first.

    Args:
        candidates: their scores on the same validation rows, the simplest first.
        metric: in `METRICS`.
    """
    sign = 1 if METRICS[metric].higher else -1
    found = {name: measure(scores, (metric, "loss")) for name, scores in candidates.items()}
    return max(found, key=lambda name: (sign * found[name][metric], -found[name]["loss"]))
