"""A proof for every family with classes."""

from __future__ import annotations

import math

from luthier.core.proof import Proof, ProofContext


def starts_where_it_must(context: ProofContext) -> Proof:
    """A new head knows nothing: its loss is the logarithm of the number of classes."""
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    expected = math.log(len(context.spec.labels))
    return Proof(
        held=began <= expected + max(0.5, 0.25 * expected),
        claim=f"the loss begins at {began:.3f}; a head that knows nothing has {expected:.3f}",
        evidence={"loss": began, "expected": expected},
    )
