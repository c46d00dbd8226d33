"""What must hold before a text autoencoder is trained: what is reconstructed is what the untouched base says, held-out rows have no noise, and where the loss begins."""

from __future__ import annotations

from typing import Any

from luthier.core.proof import Proof, ProofContext
from luthier.families.autoencoder_proofs import loss_begins_at, normal_rows_alone_are_learned, vectors_go_in_as_they_are

ROWS = 8
"""Texts that are read again by themselves."""
FAR = 1e-4
"""Of a vector of length one: more than rounding explains."""


def vectors_are_the_bases(context: ProofContext) -> Proof:
    """The vectors that are kept are those of transformers' own forward pass on one text at a time."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    rows = [example for example in context.rows[:ROWS] if "place" not in example.inputs]
    apart = 0.0
    with eval_mode(model), torch.no_grad():
        for example in rows:
            batch = context.batch([example])
            tokens = batch.flat["tokens"][None]
            apart = max(apart, float((model.row_vectors(batch) - model.embed_padded(tokens, torch.ones_like(tokens))).abs().max()))
    holds = apart <= FAR
    claim = (
        f"the vectors of {len(rows)} texts are those that transformers' own forward pass gives of each"
        if holds
        else f"the kept vectors are not the base's: they differ by {apart:.2g}"
    )
    return Proof(held=holds, claim=claim, evidence={"largest_difference": apart, "rows": len(rows)})  # fmt: skip


def held_out_texts_have_no_noise(context: ProofContext) -> Proof:
    """What an evaluation reconstructs of a text is what the layers make of what the base says, twice the same."""
    return vectors_go_in_as_they_are(context, "texts")


def starts_at_the_mean_vector(context: ProofContext) -> Proof | None:
    """New layers say the mean vector of every text: the loss begins at the mean square of the centred vectors."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    if not model.new:
        return None
    with eval_mode(model), torch.no_grad():
        expected = float(model.targets(context.batch(context.rows)).double().square().mean())
    return loss_begins_at(context, expected, "the mean vector")


READ = (normal_rows_alone_are_learned,)
ASK = (vectors_are_the_bases, held_out_texts_have_no_noise, starts_at_the_mean_vector)
