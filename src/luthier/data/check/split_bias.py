"""Split bias: how much higher a random split would have made the score."""

from __future__ import annotations

import numpy as np

from luthier.core.finding import Finding
from luthier.data.check.labels import out_of_fold
from luthier.data.check.sheet import Sheet

FEWEST = 200


def check(sheet: Sheet) -> list[Finding]:
    """Accuracy of a probe under random folds, minus that under folds that keep near-duplicates together: the bias of a random split."""
    if sheet.encode is None or not sheet.classes or len(sheet.sample) < FEWEST:
        return []
    groups = np.array([sheet.clusters[row] for row in sheet.sample])
    if len(np.unique(groups)) == len(groups):
        return []
    names = sorted({sheet.labels[row] for row in sheet.sample})
    target = np.array([names.index(sheet.labels[row]) for row in sheet.sample])
    together, apart = (
        out_of_fold(sheet.features, target, len(names), grouping).argmax(1) == target for grouping in (groups, np.arange(len(groups)))
    )
    gain = float(apart.mean() - together.mean())
    spread = 1.96 * float((apart.astype(float) - together).std()) / len(target) ** 0.5
    return [Finding(check="flattery", severity="warning" if gain - spread > 0.005 else "note",
                    claim=f"a random split would have flattered a probe by {100 * gain:.1f} points [{100 * (gain - spread):.1f}, {100 * (gain + spread):.1f}]: "
                    f"{apart.mean():.1%} with near-copies on both sides, {together.mean():.1%} without",
                    evidence={"random": float(apart.mean()), "by_cluster": float(together.mean()), "gain": gain, "low": gain - spread, "high": gain + spread,
                              "looked_at": len(target), "of": len(sheet)})]  # fmt: skip
