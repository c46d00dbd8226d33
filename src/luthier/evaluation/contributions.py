"""How a search compares trials: a score, and what each row (or each resample of the rows) contributes to it."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores
from luthier.evaluation.compare import bootstrap_metric
from luthier.evaluation.metrics import measure, metric_of
from luthier.evaluation.temperature_scaled import temperature_scaled_loss

AS_LOSS = ("auto", "accuracy", "bits_per_byte")
"""Metrics for which trials are compared by their loss with over-confidence taken out: it says earlier what shares of few rows say late."""
DRAWS = 400
"""Resamples of the validation rows that a comparison of two trials is made from."""


def comparison_metric(metric: str) -> str:
    """The name of what trials are compared by, where this metric decides."""
    return "loss" if metric in AS_LOSS else metric


def contributions(scores: Scores, metric: str) -> tuple[float, np.ndarray]:
    """A trial's score, smaller is better, and contributions whose mean it is.

    Two trials' contributions stand side by side, so the spread of their differences gives the standard error of the paired comparison: of the loss a row contributes its own;
    of other metrics the contributions are paired resamples, centred and scaled so that the same formula gives the bootstrap's standard error.

    Args:
        scores: on the validation rows.
        metric: that decides.

    Source: Efron & Tibshirani 1993, chapter 6.
    """
    if comparison_metric(metric) == "loss":
        losses = scores.loss if metric == "loss" and scores.probabilities is not None else temperature_scaled_loss(scores)
        return float(losses.mean()), losses
    sign = -1.0 if metric_of(metric).higher else 1.0
    score = sign * measure(scores, (metric,))[metric]
    resamples = sign * bootstrap_metric(metric, scores, draws=DRAWS)
    middle = np.nanmean(resamples)
    return score, score + np.nan_to_num(resamples - middle) * np.sqrt(len(resamples))


def describe_score(metric: str, score: float) -> str:
    """A trial's score for a person, such as "validation macro_f1 0.8123"."""
    return f"validation {comparison_metric(metric)} {value_of_score(metric, score):.4f}"


def value_of_score(metric: str, score: float) -> float:
    """The metric's value that a score stands for: where more is better a score is its negative."""
    return -score if metric_of(comparison_metric(metric)).higher else score
