"""What the finished models of `luthier transfer` say together: the table, the differences, and the sentences that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from luthier.core.words import plural
from luthier.evaluation.metrics import metric_of
from luthier.evaluation.transfer_gain import Estimate, Measured, mean_over_seeds, paired_gain, rows_needed
from luthier.evaluation.verdict import format_value
from luthier.models.spec import SCRATCH

TOLD = 200
"""Training rows at which the sentence is said, where there are so many: few enough for a start to matter."""

Cells = Mapping[tuple[str, int, int], Mapping[str, Any]]
"""(start, rows or 0 for all, seed) → what was measured."""


def compare_starts(cells: Cells, starts: Sequence[str]) -> dict[str, Any]:
    """The table, the differences from the start that knows nothing (or the first), and what follows from them.

    Args:
        cells: the finished models.
        starts: in their order.
    """
    metric = next(iter(cells.values()))["metric"]
    higher = metric_of(metric).higher
    starts = [name for name in starts if any(start == name for start, _, _ in cells)]
    against = next((name for name in starts if name.partition(":")[0] == SCRATCH), starts[0])
    counts = {rows: int(found["training_rows"]) for (_, rows, _), found in cells.items()}
    sizes = sorted(counts, key=lambda rows: rows or 1 << 62)
    models = {(start, rows): _models(cells, start, rows) for start in starts for rows in sizes}
    table = [_line(cells, start, rows, counts[rows], models[start, rows]) for start in starts for rows in sizes if models[start, rows]]
    curve = [(counts[rows], mean_over_seeds(models[against, rows]).value) for rows in sizes if models[against, rows]]
    gains = [
        _gain(start, against, rows, counts[rows], models, curve, higher)
        for start in starts
        for rows in sizes
        if start != against and models[start, rows] and models[against, rows]
    ]
    gains = [gain for gain in gains if gain]
    return {
        "metric": metric,
        "higher_is_better": higher,
        "test_rows": max(int(found["test_rows"]) for found in cells.values()),
        "against": against,
        "table": table,
        "gains": gains,
        "sentences": [_sentence(start, against, gains, metric, higher) for start in starts if start != against]
        or ["one start alone says nothing of transfer"],
    }


def _models(cells: Cells, start: str, rows: int) -> dict[int, Measured]:
    return {
        seed: Measured(found["value"], np.array(found["draws"], dtype=float))
        for (name, size, seed), found in sorted(cells.items(), key=lambda cell: cell[0])
        if (name, size) == (start, rows)
    }


def _line(cells: Cells, start: str, rows: int, count: int, models: Mapping[int, Measured]) -> dict[str, Any]:
    """A row of the table."""
    found = [cells[start, rows, seed] for seed in models]
    return {
        "start": start, "rows": count, "validation_rows": int(found[0]["validation_rows"]), "seeds": len(models), **asdict(mean_over_seeds(models)),
        "each": [each["value"] for each in found], "seconds": round(float(np.mean([each["seconds"] for each in found])), 2),
    }  # fmt: skip


def _gain(
    start: str,
    against: str,
    rows: int,
    count: int,
    models: Mapping[tuple[str, int], dict[int, Measured]],
    curve: Sequence[tuple[int, float]],
    higher: bool,
) -> dict[str, Any] | None:
    """How much better a start is with so many rows, and how many rows the other one needs for as much."""
    gain = paired_gain(models[start, rows], models[against, rows], higher)
    if gain is None:
        return None
    needed = rows_needed(mean_over_seeds(models[start, rows]).value, curve, higher)
    return {
        "start": start,
        "against": against,
        "rows": count,
        **asdict(gain),
        "needed": needed,
        "most": curve[-1][0],
        "fewest": curve[0][0],
    }


def _sentence(start: str, against: str, gains: Sequence[Mapping[str, Any]], metric: str, higher: bool) -> str:
    """What a start is worth, for a person."""
    mine = [gain for gain in gains if gain["start"] == start]
    if not mine:
        return f"{start} and {against} have no finished model on the same rows."
    told = next((gain for gain in mine if gain["rows"] >= TOLD), mine[-1])
    estimate = _estimate(told)
    what = f"With {plural(told['rows'], 'row')}, starting from {start} {_amount(metric, estimate, higher)} against {against}"
    if estimate.low <= 0 <= estimate.high:
        elsewhere = next((gain for gain in mine if not gain["low"] <= 0 <= gain["high"]), None)
        more = f"; with {plural(elsewhere['rows'], 'row')} it {_amount(metric, _estimate(elsewhere), higher)}" if elsewhere else ""
        return f"{what}: no evidence that it helps{'' if estimate.value >= 0 else ' or harms'}{more}."
    if estimate.high < 0:
        return f"{what}: it harms."
    needed = told["needed"]
    if needed is None:
        return f"{what}; {against} is not as good with {told['most']:,} rows, the most tried."
    times = needed / told["rows"]
    return f"{what}; as good as about {times:.1f} times the rows from {against}." if times > 1 else f"{what}."


def _estimate(gain: Mapping[str, Any]) -> Estimate:
    return Estimate(gain["value"], gain["low"], gain["high"])


def _amount(metric: str, estimate: Estimate, higher: bool) -> str:
    """A difference and its interval as a person reads them."""
    if not higher:
        value, low, high = (f"{number:.4f}" for number in (estimate.value, estimate.low, estimate.high))
        return f"lowers {metric} by {value} [{low}, {high}]"
    low, high = (format_value(metric, end, signed=True).removesuffix(" points") for end in (estimate.low, estimate.high))
    return f"is worth {format_value(metric, estimate.value, signed=True)} of {metric} [{low}, {high}]"
