"""Randomness is a function of seed, step and example: proven by drawing twice."""

from __future__ import annotations

import torch

from luthier.core.proof import Proof
from luthier.training.proofs.context import ProofInputs, all_blocks_moving

REMEDY = "Drop with nn.Dropout, which is keyed by seed, step and example, or not at all"


def randomness_is_keyed(context: ProofInputs) -> Proof:
    """In train mode the same keys give the same bits, and torch's own generator is not asked: what is resumed or repeated draws the same numbers."""
    work = context.work
    batch = context.batch(context.rows)
    drawn_before = torch.get_rng_state()
    losses = []
    with all_blocks_moving(work), torch.no_grad():
        for _ in range(2):
            with work.model.dropout_keys.set_keys(work.experiment.seed, 0, batch.index, batch.lengths, batch.stream_lengths):
                losses.append(work.objective.loss(work.model, batch).total.detach())
    untouched = torch.equal(drawn_before, torch.get_rng_state())
    same = torch.equal(losses[0].nan_to_num(), losses[1].nan_to_num())
    evidence = {"first": float(losses[0]), "second": float(losses[1]), "generator_untouched": untouched}
    if same and untouched:
        return Proof(held=True, claim="the same rows with the same dropout keys have the same loss to the bit", evidence=evidence)
    what = "the same rows with the same dropout keys have two losses" if not same else "torch's own generator was asked for random numbers"
    return Proof(
        held=False, claim=f"{what}: a layer draws in a way that is not keyed, so a resumed run would differ. {REMEDY}", evidence=evidence
    )
