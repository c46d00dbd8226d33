"""Metrics of labelled spans."""

from __future__ import annotations

import numpy as np

from luthier.core.types import Scores


def span_f1(scores: Scores, rows: np.ndarray) -> float:
    """F1 over all spans of all rows together (micro): a span is right where its start, its end and its label are (Tjong Kim Sang & De Meulder 2003)."""
    return float(twice_right(scores)[rows].sum() / max(float(said_and_there(scores)[rows].sum()), 1.0))


def token_accuracy(scores: Scores, rows: np.ndarray) -> float:
    """The share of words whose likeliest label is the right one."""
    return float(scores.more["right_words"][rows].sum() / max(float(scores.count[rows].sum()), 1.0))


def twice_right(scores: Scores) -> np.ndarray:
    """Twice the spans that are right, # (rows,)"""
    return 2 * scores.more["right_spans"].sum(1)


def said_and_there(scores: Scores) -> np.ndarray:
    """The spans that were said and those that are there, # (rows,)"""
    return (scores.more["named_spans"] + scores.more["there_spans"]).sum(1)


def right_words(scores: Scores) -> np.ndarray:
    """The words with the right label, # (rows,)"""
    return scores.more["right_words"]
