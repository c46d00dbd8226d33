"""Two classes, as medicine reads them: sensitivity, specificity, and shares of rows with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.types import Scores


def share_interval(count: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """An interval of a share of rows; it holds for few rows and for shares near 0 and 1.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Args:
        count: rows that have something.
        of: rows, 1 or more.
        level: chance that the interval holds the true share.
    """
    from scipy.stats import binomtest

    ends = binomtest(count, of).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def shown_share(count: int, of: int) -> str:
    """A share in percent with its interval.

    >>> shown_share(9, 10)
    '90.0 % [59.6, 98.2]'
    """
    low, high = share_interval(count, of)
    return f"{100 * count / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def describe_two_classes(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """Sensitivity, specificity and the area under the ROC curve, each with its interval, as a table for the report.

    Args:
        scores: on the test rows.
        labels: the two classes; the second is the one that is looked for.
    """
    from luthier.evaluation.compare import interval
    from luthier.evaluation.metrics import measure

    assert scores.target is not None and scores.probabilities is not None
    predicted, target = scores.probabilities.argmax(1), scores.target
    rows = []
    for name, index in (("sensitivity", 1), ("specificity", 0)):
        there = target == index
        if there.any():
            right, count = int((predicted[there] == index).sum()), int(there.sum())
            rows.append((name, f"of {count:,} rows of {labels[index]!r}, said {labels[index]!r}", shown_share(right, count)))
    low, high = interval("auc", scores)
    rows.append(("AUC", f"a row of {labels[1]!r} has a higher score than one of {labels[0]!r}", f"{measure(scores, ('auc',))['auc']:.3f} [{low:.3f}, {high:.3f}]"))  # fmt: skip
    return {"title": f"{labels[1]!r} against {labels[0]!r}", "head": ("", "what it is", "on the test rows [95 % interval]"), "rows": rows}
