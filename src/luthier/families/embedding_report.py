"""What embeddings have to beat without learning, and what the report shows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.types import Example, Scores

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

SHOWN = 20
"""Wrong neighbours in the report."""


def cosine_of_words(train: Sequence[Example], validation: Sequence[Example], objective: Any) -> Baseline:
    """The cosine of TF-IDF vectors of words and word pairs.

    Args:
        train: rows whose texts say how rare words are.
        validation: rows to be scored.
        objective: knows the columns, and what is scored.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    from luthier.evaluation.baselines import Baseline

    def texts(examples: Sequence[Example], name: str) -> list[str]:
        return [str(example.record.values.get(name) or "") for example in examples]

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    vectorizer.fit([*texts(train, objective.input[0]), *texts(train, objective.input[1]), "empty"])

    def score(examples: Sequence[Example]) -> Scores:
        one, two = (vectorizer.transform(texts(examples, name)) for name in objective.input[:2])
        cosine = np.asarray(one.multiply(two).sum(1)).ravel()
        actual = np.array([np.nan if example.target is None else example.target for example in examples])
        losses = (cosine - actual) ** 2  # NaN of pairs: their loss depends on the rows of a step
        return objective.with_ranks(
            Scores(losses, np.ones(len(examples)), more={"predicted": cosine, "actual": actual}), examples, one, two
        )

    return Baseline("TF-IDF cosine", score, score(validation))


def describe_neighbours(scores: Scores) -> dict[str, Any]:
    """What the report shows of rows whose right text is not the nearest, and of the places of the others.

    Args:
        scores: of the test rows.
    """
    import numpy as np

    rank, more = scores.more["rank"], scores.more
    if np.isnan(rank).all():
        far = np.argsort(-np.abs(more["predicted"] - more["actual"]), kind="stable")[:SHOWN]
        rows = [(more["anchor"][row], more["positive"][row], f"{more['actual'][row]:.3f}", f"{more['predicted'][row]:.3f}") for row in far]
        return {
            "tables": [
                {
                    "title": "Pairs whose cosine is farthest from their score",
                    "head": ("text", "other text", "asked for", "cosine"),
                    "rows": rows,
                }
            ]
        }
    lead = np.where(rank > 1, more["wrong_cosine"] - more["predicted"], -np.inf)
    wrong = [row for row in np.argsort(-lead, kind="stable")[:SHOWN] if rank[row] > 1]
    rows = [
        (more["anchor"][row], f"{more['positive'][row]} ({more['predicted'][row]:.2f})", f"{rank[row]:g}", f"{more['wrong'][row]} ({more['wrong_cosine'][row]:.2f})")
        for row in wrong
    ]  # fmt: skip
    edges = ((1, 1), (2, 3), (4, 10), (11, math.inf))
    places = [
        (
            f"{low}" if low == high else f"{low} and more" if math.isinf(high) else f"{low} to {high}",
            int(((rank >= low) & (rank < high + 1)).sum()),
        )
        for low, high in edges
    ]
    return {
        "tables": [
            {
                "title": "Nearest wrong neighbours",
                "head": ("anchor", "right text (cosine)", "its place", "nearest other text (cosine)"),
                "rows": rows,
            },
            {"title": "The place of the right text", "head": ("place", "rows"), "rows": places},
        ]
    }
