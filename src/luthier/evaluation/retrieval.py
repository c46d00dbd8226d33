"""Metrics of retrieval: which place the text that belongs to a query has among all texts that could."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.types import Scores

TOGETHER = 1024
"""Queries whose cosines are in memory at the same time."""


def score_retrieval(queries: Any, documents: Any, query_texts: Sequence[str], document_texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The place of each query's right document among the different documents of all rows.

    The same document in several rows counts once, and is right for each of their queries; a query that stands in several rows has several right documents, of which the nearest
    counts; a document that is the query itself is left out. Documents at the same cosine share their mean place.

    Args:
        queries: of length one, dense or sparse, # (rows, features)
        documents: the right one of each query, # (rows, features)
        query_texts: of each row; the same text is the same query.
        document_texts: of each row.

    Returns:
        `rank` from 1, # (rows,); `wrong`: the row of the nearest document that is not right, -1 where there is none, # (rows,); `wrong_cosine` # (rows,)
    """
    first: dict[str, int] = {}
    for row, text in enumerate(document_texts):
        first.setdefault(text, row)
    indices = {text: index for index, text in enumerate(first)}
    rows = np.array(list(first.values()), dtype=int)
    right_of: dict[str, set[int]] = {}
    for query, document in zip(query_texts, document_texts, strict=True):
        right_of.setdefault(query, set()).add(indices[document])
    count = len(query_texts)
    rank, wrong, nearest = np.ones(count), np.full(count, -1), np.full(count, np.nan)
    candidates = documents[rows].T
    for start in range(0, count, TOGETHER):
        part = queries[start : start + TOGETHER] @ candidates
        part = np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float64)
        for offset, cosines in enumerate(part):
            if np.isnan(cosines).any():  # a model that has diverged knows no place
                rank[start + offset] = np.nan
                continue
            query = query_texts[start + offset]
            right = list(right_of[query])
            best = cosines[right].max()
            cosines[right] = -np.inf
            if query in indices:
                cosines[indices[query]] = -np.inf
            rank[start + offset] = 1 + (cosines > best).sum() + (cosines == best).sum() / 2
            if len(cosines) and np.isfinite(cosines.max()):
                wrong[start + offset], nearest[start + offset] = rows[int(cosines.argmax())], cosines.max()
    return {"rank": rank, "wrong": wrong, "wrong_cosine": nearest}


def reciprocal_ranks(scores: Scores) -> np.ndarray:
    """1 divided by the place, # (rows,)"""
    return 1 / scores.more["rank"]


def among_first(scores: Scores, most: int) -> np.ndarray:
    """1 where the right text is among the first so many, 0 where not, # (rows,)"""
    rank = scores.more["rank"]
    return np.where(np.isnan(rank), np.nan, (rank <= most).astype(float))


def is_first(scores: Scores) -> np.ndarray:
    """1 where the right text is the nearest, # (rows,)"""
    return among_first(scores, 1)


def is_among_ten(scores: Scores) -> np.ndarray:
    """1 where the right text is among the nearest ten, # (rows,)"""
    return among_first(scores, 10)


def mrr(scores: Scores, rows: np.ndarray) -> float:
    """The mean of 1 divided by the place of the right text."""
    return float(reciprocal_ranks(scores)[rows].mean())


def recall_at_1(scores: Scores, rows: np.ndarray) -> float:
    """The share of rows whose right text is the nearest."""
    return float(among_first(scores, 1)[rows].mean())


def recall_at_10(scores: Scores, rows: np.ndarray) -> float:
    """The share of rows whose right text is among the nearest ten."""
    return float(among_first(scores, 10)[rows].mean())
