"""What must hold before an autoencoder is trained: who is learned from, what goes in, whose statistics count, and where the loss begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.words import plural
from luthier.families.anomaly_baselines import pixels_of


def normal_rows_alone_are_learned(context: ProofContext) -> Proof:
    """No training row is known to be abnormal."""
    wrong = [example for example in context.train if example.facts["abnormal"] > 0]
    claim = (
        f"{len(wrong):,} training rows are known to be abnormal"
        if wrong
        else f"none of {len(context.train):,} training rows is known to be abnormal"
    )
    return Proof(held=not wrong, claim=claim, evidence={"abnormal": len(wrong), **(row_of(wrong[0]) if wrong else {})})


def held_out_rows_have_no_noise(context: ProofContext) -> Proof:
    """What an evaluation reconstructs of a row is what the network makes of the bare image, twice the same."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    one, two = context.batch(context.rows), context.batch(context.rows)
    with eval_mode(model), torch.no_grad():
        bare = model.network.decode(model.network.encode(model.target(one).to(model.network.to_code.weight.dtype))[0]).float()
        apart = max(float((model(batch)[0] - bare).abs().max()) for batch in (one, two))
    added = sorted({"noise", "draw"} & set(one.each))
    holds = not added and apart <= context.close
    claim = (
        f"held-out images go in as they are: {len(context.rows)} are reconstructed the same twice"
        if holds
        else f"held-out images are changed before they go in ({', '.join(added) or f'the reconstruction differs by {apart:.2g}'})"
    )
    return Proof(held=holds, claim=claim, evidence={"largest_difference": apart, "added": added})


def vectors_go_in_as_they_are(context: ProofContext, rows: str) -> Proof:
    """What an evaluation reconstructs of a row is what the layers make of its bare vector, twice the same.

    Args:
        context: of the proof, of a model that reconstructs a frozen network's vectors.
        rows: what they are, for a person: texts or images.
    """
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    batches = context.batch(context.rows), context.batch(context.rows)
    added = sorted({"noise"} & set(batches[0].each))
    with eval_mode(model), torch.no_grad():
        bare = model.network.autoencoder(model.targets(batches[0]))
        apart = max(float((model(batch).chunk(2, dim=1)[0] - bare).abs().max()) for batch in batches)
    holds = not added and apart <= context.close
    claim = (
        f"held-out {rows} go in as they are: {len(context.rows)} are reconstructed the same twice"
        if holds
        else f"held-out {rows} get noise: what is reconstructed differs by {apart:.2g}"
    )
    return Proof(held=holds, claim=claim, evidence={"largest_difference": apart, "added": added})


def statistics_move_in_training_alone(context: ProofContext) -> Proof:
    """The running statistics of batch norms follow the training rows; an evaluation uses them, and neither moves them nor looks at the rows beside a row.

    A new decoder gives grey whatever it is given, so its last layer is another one meanwhile.
    """
    import torch

    from luthier.evaluation.score import score
    from luthier.models.buffers import Buffers, keep_buffers
    from luthier.models.modes import eval_mode, has_statistics

    model: Any = context.model
    buffers, last = Buffers(model.network), model.network.to_pixels.weight
    before, own = buffers.copy(), last.detach().clone()
    moving = [f"{name}.running_mean" for name, module in model.network.named_modules() if has_statistics(module)]
    with torch.no_grad(), keep_buffers(model.network):
        last.copy_(torch.linspace(-1, 1, last.numel(), device=last.device).view_as(last))
        together = score(model, context.objective, context.rows).loss
        alone = np.array([score(model, context.objective, [example]).loss[0] for example in context.rows])
        judged = buffers.copy()
        with eval_mode(model):
            model.train()
            context.objective.loss(model, context.batch(context.rows))
        trained = buffers.copy()
        last.copy_(own)
    apart = float(np.abs(together / alone - 1).max())
    still = [name for name in moving if torch.equal(trained[name], before[name])]
    moved = [name for name in moving if not torch.equal(judged[name], before[name])]
    holds = not still and not moved and apart <= context.close
    claim = (
        f"the statistics of {plural(len(moving), 'batch norm')} follow the training rows, and an evaluation leaves them alone and uses them"
    )
    if not holds:
        claim = (
            f"an evaluation looks at the rows beside a row: its loss differs by {apart:.2g}" if apart > context.close
            else f"the statistics of {moved[0]} move in an evaluation" if moved
            else f"the statistics of {still[0]} stand still in training"
        )  # fmt: skip
    return Proof(held=holds, claim=claim, evidence={"largest_relative_difference": apart, "still": still[:3], "moved": moved[:3]})


def starts_in_middle_grey(context: ProofContext) -> Proof | None:
    """A new decoder gives middle grey: the loss of a pixel begins at the mean square of the pixels."""
    model: Any = context.model
    if not model.new:
        return None
    besides = context.spec.kl_weight if context.spec.variant == "variational" else 0.0  # a new code is not far from a normal distribution
    return loss_begins_at(context, float((pixels_of(context.rows) ** 2).mean()), "middle grey", besides)


def loss_begins_at(context: ProofContext, expected: float, what: str, besides: float = 0.0) -> Proof:
    """The loss is that of a network which says the same of every row.

    Args:
        context: of the proof.
        expected: that loss, a number of a row.
        what: it says, for a person.
        besides: by how much the loss may lie above, for what it counts beside the squared error.
    """
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    return Proof(
        held=expected * (1 - 1e-3) <= began <= expected * (1 + 1e-3) + besides,
        claim=f"the loss of a {context.objective.unit} begins at {began:.4f}; {what} has {expected:.4f}",
        evidence={"loss": began, "expected": expected},
    )


READ = (normal_rows_alone_are_learned,)
ASK = (held_out_rows_have_no_noise, statistics_move_in_training_alone, starts_in_middle_grey)
