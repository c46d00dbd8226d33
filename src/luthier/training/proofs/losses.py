"""Proofs about the loss that ask the model: packed equals alone, accumulated equals whole, a few rows can be learned by heart."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from luthier.core.proof import Proof, row_of
from luthier.core.types import HELD_OUT, Batch, Example
from luthier.core.words import plural
from luthier.evaluation.score import score
from luthier.models.dropout import Dropout
from luthier.models.modes import eval_mode, mixes_rows
from luthier.models.precision import in_fp32
from luthier.models.pretrained import PackedNetwork
from luthier.training.proofs.context import CLOSE, ProofInputs, all_blocks_moving
from luthier.training.steps import Work, steps

TRIED = 24
"""Steps at most in which a few rows must be learned by heart."""
LEARNED_SHARE = 0.8
"""Of the first loss: when two steps in a row lie below it, no more are needed."""
STUCK_SHARE = 0.95
"""Of the first loss: what is above it after all steps has not learned."""
SLOWER = 10
"""Times slower the rows are shown again where they were not learned (a squared error has no upper end, and at a high learning rate it may swing); faster where the loss fell all the time, and too little."""
KNOWN = 0.05
"""Below this a row is known already, and there is little left to learn: a number near the mean, for one, begins there."""
QUICK_LEARNING_RATES = {
    ("adamw", "full"): 2e-4,
    ("adamw", ""): 3e-3,
    ("adam", "full"): 2e-4,
    ("adam", ""): 3e-3,
    ("sgd", ""): 0.05,
    ("adagrad", ""): 0.3,
}
"""(optimizer, adaptation) → a learning rate at which a few rows are learned by heart; "" stands for any other adaptation, and for a network from scratch."""


def packed_is_alone(context: ProofInputs) -> Proof:
    """A row's loss does not depend on the rows beside it, nor on our way of computing it: transformers' own says the same; in fp32, for bf16 moves the loss of a short answer by several percent."""
    with all_blocks_moving(context.work), in_fp32(context.work.model.network):
        return _packed_is_alone(context, CLOSE[torch.float32])


def _packed_is_alone(context: ProofInputs, allowed: float) -> Proof:
    """The same, in the precision that the network has now."""
    rows, work = context.rows, context.work
    together = score(work.model, work.objective, rows, answers=0)
    single = [score(work.model, work.objective, [example], answers=0) for example in rows]
    own, beside = np.concatenate([work.objective.of_each_row(scores) for scores in single]), work.objective.of_each_row(together)
    off = np.abs(beside - own).max(1) / np.maximum(np.abs(own).max(1), 1e-2)
    worst = int(off.argmax())
    evidence = {"largest_relative_difference": float(off.max()), "allowed": allowed}
    if not float(off.max()) <= allowed:
        return Proof(
            held=False,
            claim=f"a row's loss changes from {own[worst, 0]:.5f} to {beside[worst, 0]:.5f} when others stand beside it"
            if own.shape[1] == 1
            else "a row's vectors change when others stand beside it",
            evidence=evidence | row_of(rows[worst]),
        )
    compared = False
    for index, example in enumerate(rows[:3]):
        reference = work.objective.reference_loss(work.model, example)
        if reference is None:
            break
        compared, expected = True, float(reference)
        apart = abs(expected - float(together.loss[index])) / max(abs(expected), 1e-2)
        evidence["largest_relative_difference"] = max(evidence["largest_relative_difference"], apart)
        if not apart <= allowed:
            return Proof(
                held=False,
                claim=f"the loss of a row is {together.loss[index]:.5f}, and {expected:.5f} by transformers' own forward pass",
                evidence=evidence | row_of(example),
            )
    return Proof(
        held=True,
        claim=f"a row's {'loss is' if own.shape[1] == 1 else 'vectors are'} the same packed, alone"
        + (" and by transformers' own forward pass" if compared else ""),
        evidence={**evidence},
    )


def accumulated_is_whole(context: ProofInputs) -> Proof:
    """Gradients of a step are the same in one piece and in several, in the modes of training but for dropout; in fp32, for where rows pull against each other bf16 rounds more than is left."""
    work, rows = context.work, plural(len(context.rows), "row")
    if not work.objective.splits:
        return Proof(held=True, claim="a step goes through the model whole: the objective says that what a row teaches depends on the rows beside it",
                     evidence={"splits": False})  # fmt: skip
    batch = context.batch(context.rows)
    pieces = batch.split(max(int(batch.lengths.max()), 1))
    with all_blocks_moving(work), _without_dropout(work.model), in_fp32(work.model.network):
        mixes = mixes_rows(work.model)
        whole = _gradient(context, [batch])
        try:
            added = _gradient(context, pieces)
            one = _gradient(context, pieces[:1])
        except ValueError as problem:  # a batch norm of one row
            return Proof(held=False, claim=f"{rows} in several pieces cannot go through the model: {problem}. {_SAY_SO}", evidence={"pieces": len(pieces)})  # fmt: skip
    size = max(
        float(whole.norm()), float(one.norm()) / len(pieces), 1e-12
    )  # where a head begins fitted, what rows teach cancels, and rounding is left
    apart, allowed = float((whole - added).norm()) / size, CLOSE[torch.float32]
    held = apart <= allowed
    reason = f": a batch norm is in train mode. {_SAY_SO}" if not held and mixes else ""
    return Proof(held=held, claim=f"the gradient of {rows} in one piece and in several differs by {apart:.1e}{reason}",
                 evidence={"relative_difference": apart, "allowed": allowed})  # fmt: skip


_SAY_SO = "What a row teaches depends on the rows beside it; the objective has to say so (splits = False)"


def _gradient(context: ProofInputs, parts: Sequence[Batch]) -> Tensor:
    """What the step's parts add up to, divided once, as the loop does it."""
    work = context.work
    parameters = [parameter for parameter in work.model.network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    count = 0.0
    for part in parts:
        loss = work.objective.loss(work.model, part)
        loss.total.backward()
        count += loss.count
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([(gradient.to_dense() if gradient.is_sparse else gradient).float().flatten() for gradient in gradients]) / count
    for parameter in parameters:
        parameter.grad = None
    return flat


def a_row_moves_only_itself(context: ProofInputs) -> Proof | None:
    """The loss of one row has no gradient at any token that is not its own, or shared with its neighbours because all before it is the same."""
    work, rows = context.work, context.rows[:3]
    if not work.model.packs:
        return None  # padded rows have a place of their own
    batch = context.batch(rows)
    outputs: list[Tensor] = []
    model = cast(PackedNetwork, work.model)
    embedding = model.network.get_input_embeddings()

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.detach().requires_grad_()
        outputs.append(output)
        return output

    handle = embedding.register_forward_hook(keep)
    own = slice(int(batch.lengths[0]), int(batch.lengths[:2].sum()))  # the second: it has a neighbour on either side
    kept_states, model.frozen_cache = model.frozen_cache, None  # the gradient has to go all the way down
    try:
        with eval_mode(model):
            shared_prefix = model.shared_prefix(batch)
            model.hidden_states(batch)[own].float().square().sum().backward()
    finally:
        handle.remove()
        model.frozen_cache = kept_states
        for parameter in model.network.parameters():
            parameter.grad = None
    if outputs[0].grad is None:
        return Proof(held=False, claim="no gradient reaches the tokens: nothing below the head could learn", evidence=row_of(rows[1]))
    size = outputs[0].grad.abs().reshape(-1, outputs[0].shape[-1]).amax(1)
    mine = own if shared_prefix is None else shared_prefix.position[own]
    at_own = float(size[mine].max())
    size[mine] = 0
    at_others = float(size.max())
    held = at_own > 0 and at_others == 0
    return Proof(held=held, claim="the gradient of one row touches that row alone" if held else "the gradient of one row reaches the rows beside it: packed rows see each other",
                 evidence={"at_its_own_tokens": at_own, "at_others": at_others, **row_of(rows[1])})  # fmt: skip


def judged_as_trained(context: ProofInputs) -> Proof:
    """Evaluation counts the same tokens, in the same way, as training."""
    work, rows = context.work, context.rows
    with eval_mode(work.model), torch.no_grad(), _without_smoothing(work.objective) as smoothed:
        loss = work.objective.loss(work.model, context.batch(rows))
    scores = score(work.model, work.objective, rows, answers=0)
    plain = _is_unweighted(work)
    trained, judged = float(loss.total), float(scores.loss.sum())
    apart = abs(trained - judged) / max(abs(judged), 1e-2)
    same = float(loss.count) == float(scores.count.sum()) if plain else True
    held = same and (apart <= context.close or not plain)
    return Proof(held=held, claim=f"training and evaluation count {loss.count:g} and {scores.count.sum():g} learned {work.objective.unit}s, with losses of {trained:.4f} and {judged:.4f}",
                 evidence={"relative_difference": apart, "weights": not plain, "smoothing_left_out": smoothed})  # fmt: skip


def _is_unweighted(work: Work) -> bool:
    return getattr(work.experiment.objective, "class_weights", None) in (None, "none")


@contextlib.contextmanager
def _without_smoothing(objective: Any) -> Iterator[bool]:
    """The objective without label smoothing, which evaluations leave out, for the time of the context; and whether it had some."""
    spec, smoothed = objective.spec, bool(getattr(objective.spec, "label_smoothing", 0.0))
    if smoothed:
        objective.spec = spec.model_copy(update={"label_smoothing": 0.0})
    try:
        yield smoothed
    finally:
        objective.spec = spec


def a_few_rows_can_be_learned(context: ProofInputs) -> Proof:
    """A few rows, shown again and again without dropout, are learned by heart."""
    work = context.work
    rows = _distinct_rows(context.rows)[:4]
    if any(example.units > 1 for example in rows):  # a row that teaches many units is enough to learn by heart
        rows = sorted(context.rows, key=lambda example: example.size)[:2]
    kind = work.experiment.adaptation.kind if work.experiment.model.base else ""  # type: ignore[attr-defined]
    lr = QUICK_LEARNING_RATES.get((work.masters.spec.kind, kind), QUICK_LEARNING_RATES[work.masters.spec.kind, ""])
    losses, fell = _overfit(context, rows, lr)
    if len(losses) == TRIED and not fell and time.monotonic() < context.until:
        steadily = all(later < earlier for earlier, later in pairwise(losses))  # too slow for a small network, where others swing
        lr = lr * SLOWER if steadily else lr / SLOWER
        losses, fell = _overfit(context, rows, lr)
    timely = len(losses) == TRIED or fell or not math.isfinite(losses[-1])
    return Proof(held=fell if timely else None, evidence={"steps": len(losses), "first": losses[0], "last": losses[-1], "learning_rate": lr},
                 claim=f"{plural(len(rows), 'row')} shown {plural(len(losses), 'time')}: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}" + ("" if timely else "; the time was up"))  # fmt: skip


def _overfit(context: ProofInputs, rows: Sequence[Example], lr: float) -> tuple[list[float], bool]:
    """The losses of a few rows that are shown again and again at one learning rate, and whether they fell."""
    work = context.work
    training = work.experiment.training.model_copy(update={"batch_size": len(rows)})
    experiment = work.experiment.model_copy(update={"training": training, "schedule": _Flat(lr, work.masters.spec.lr)})
    small = replace(work.shorten(experiment, rows, TRIED), objective=_DrawnAlike(work.objective))
    losses: list[float] = []
    fell = False
    with _without_dropout(work.model):
        for step in steps(small):
            losses.append(step.loss)
            fell = len(losses) > 3 and max(losses[-2:]) < LEARNED_SHARE * losses[0]
            if fell or time.monotonic() > context.until or not math.isfinite(step.loss):
                break
    if len(losses) == TRIED:
        fell = max(losses[-2:]) < max(STUCK_SHARE * losses[0], KNOWN)
    return losses, fell


class _DrawnAlike:
    """An objective that draws the same masks in every step: what is learned by heart has to stay the same."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """As an evaluation would."""
        return self.objective.collate(examples, seed, HELD_OUT)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)


def _distinct_rows(rows: Sequence[Example]) -> list[Example]:
    """Rows of different texts, so that they can be told apart."""
    return list({repr(example.inputs): example for example in rows}.values())


@contextlib.contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """All dropout probabilities at zero for the time of the context."""
    probabilities = [(module, module.p) for module in model.modules() if isinstance(module, Dropout)]
    packed = getattr(model, "dropout", None)  # of the attention of packed rows; a network without it has none
    if packed is not None:
        model.dropout = 0.0
    for module, _ in probabilities:
        module.p = 0.0
    try:
        yield
    finally:
        if packed is not None:
            model.dropout = packed
        for module, probability in probabilities:
            module.p = probability


@dataclass(frozen=True)
class _Flat:
    """A schedule that holds the learning rate at which a few rows are learned quickly, whatever the run's own is: that one is not tried here."""

    lr: float
    own: float
    warmup: float = 0.1

    def factor(self, share: float) -> float:
        """What the run's own learning rate is multiplied by."""
        return self.lr / self.own * min(1.0, share / self.warmup)
