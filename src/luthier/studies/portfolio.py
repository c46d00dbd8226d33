"""Points that complement each other: where one is poor on a task, another is good."""

from __future__ import annotations

import numpy as np


def portfolio(regrets: np.ndarray, count: int) -> list[int]:
    """Choose points one after another, each the one that lowers the mean over tasks of the smallest regret most.

    Args:
        regrets: how far each point is from the best one of its task, # (tasks, points)
        count: how many to choose; fewer where there are not so many.

    Returns:
        The points' numbers, the most useful first.

    Source: Feurer et al. 2022, "Auto-sklearn 2.0", section 3.2.1 (greedy portfolios).
    """
    chosen: list[int] = []
    best = np.full(len(regrets), np.inf)
    while len(chosen) < min(count, regrets.shape[1]):
        means = np.minimum(regrets, best[:, None]).mean(0)
        means[chosen] = np.inf
        chosen.append(int(means.argmin()))
        best = np.minimum(best, regrets[:, chosen[-1]])
    return chosen
