"""What must hold before an autoencoder of a network's maps is trained: what is reconstructed is what the untouched base sees, held-out rows have no noise, and where the loss begins."""

from __future__ import annotations

from typing import Any

from luthier.core.proof import Proof, ProofContext
from luthier.families.autoencoder_proofs import loss_begins_at, normal_rows_alone_are_learned, vectors_go_in_as_they_are

ROWS = 8
"""Images that are read again by themselves."""
FAR = 1e-3
"""Of numbers that are scaled to a standard deviation of one: more than rounding explains."""


def maps_are_the_bases(context: ProofContext) -> Proof:
    """What is kept of images is what the base sees of one at a time, pooled by torch."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from luthier.models.modes import eval_mode

    model: Any = context.model
    rows, apart = context.rows[:ROWS], 0.0
    with eval_mode(model), torch.no_grad():
        for example in rows:
            batch = context.batch([example])
            again = adaptive_avg_pool2d(model.maps(batch).float(), model.places).flatten(1)
            apart = max(apart, float((model.row_vectors(batch) - again).abs().max() / model.network.autoencoder.spread))
    holds = apart <= max(FAR, context.close)
    claim = (
        f"what is kept of {len(rows)} images is what the base sees of each"
        if holds
        else f"what is kept of the images is not what the base sees: it differs by {apart:.2g}"
    )
    return Proof(held=holds, claim=claim, evidence={"largest_difference": apart, "rows": len(rows)})


def held_out_images_have_no_noise(context: ProofContext) -> Proof:
    """What an evaluation reconstructs of an image is what the layers make of what the base sees, twice the same."""
    return vectors_go_in_as_they_are(context, "images")


def starts_as_components(context: ProofContext) -> Proof | None:
    """New layers are PCA: the loss begins at what orthonormal directions leave of the centred vectors (Pythagoras)."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    if not model.new:
        return None
    with eval_mode(model), torch.no_grad():
        vectors = model.targets(context.batch(context.rows)).double()
        inside = vectors @ model.network.autoencoder.down.weight.double().T
        expected = float((vectors.square().sum() - inside.square().sum()) / vectors.numel())
    return loss_begins_at(context, expected, "PCA")


READ = (normal_rows_alone_are_learned,)
ASK = (maps_are_the_bases, held_out_images_have_no_noise, starts_as_components)
