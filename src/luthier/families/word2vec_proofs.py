"""Proofs for Word2Vec: what counts as a pair, what negative samples are, and what the loss must be."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, row_of

LOOKED_AT = 64
"""Rows of a step that are looked at."""
APART = 0.1
"""Total variation between drawn and expected negatives, over the most frequent words, above which they are not drawn as they should be."""
FREQUENT = 20
DRAWN, STEPS = 20_000, 50
"""Negatives that are looked at, and steps at most that they are taken from."""


def something_is_learned(context: ProofContext) -> Proof:
    """Rows have words with vectors; they are counted."""
    words, empty = 0, []
    for example in context.train:
        words += len(example.tokens)
        if not example.units:
            empty.append(example)
    claim = f"{words:,} words of the training rows have one of {len(context.tokenizer):,} vectors" + (
        f"; {len(empty):,} rows have fewer than two" if empty else ""
    )
    return Proof(held=words > 0 and len(empty) < len(context.train), claim=claim, evidence={"words": words, "empty": len(empty)})


def pairs_stand_in_windows(context: ProofContext) -> Proof:
    """The pairs that are learned are those of words that stand in each other's windows, in one row, counted one by one."""
    objective: Any = context.objective
    rows = [context.train[position] for position in range(min(8, len(context.train)))]
    windows = objective.windows(objective.collate(rows, 1, 0))
    batch = objective.collate(rows, 1, 0)
    texts, centres = batch.flat["texts"].tolist(), windows.centres.tolist()
    band, reach = windows.band, windows.reach
    run, problem = band.shape[1], ""
    for position, own in enumerate(texts):
        row = band[position // run, position % run].nonzero()[:, 0].tolist()
        others = [position // run * run + column - reach for column in row]
        wrong = [
            other
            for other in others
            if not 0 <= other < len(texts) or texts[other] != own or other == position or abs(other - position) > reach
        ]
        expected = set(range(min(others, default=position), max(others, default=position) + 1)) - {position}
        if wrong or (own == len(rows) and others) or set(others) != expected:
            problem = f"word {position} of a step is paired with words {others}: they are not its neighbours in its own row"
            break
    missing = Counter(centres[position] for position, own in enumerate(texts) if own < len(rows)) - Counter(
        word for example in rows for word in np.asarray(example.tokens).tolist()
    )
    if missing:
        problem = "a step holds words that its rows do not"
    return Proof(held=not problem, claim=problem or f"{int(windows.pairs.sum()):,} pairs of {len(rows)} rows stand in each other's windows, each in its own row",
                 evidence={"pairs": int(windows.pairs.sum()), **(row_of(rows[0]) if problem else {})})  # fmt: skip


def negatives_are_drawn(context: ProofContext) -> Proof:
    """Negative samples come as often as their distribution says, whatever words stand beside them, and others in each step."""
    objective: Any = context.objective
    rows = [context.train[index] for index in range(min(LOOKED_AT, len(context.train)))]
    expected = np.diff(objective.noise, prepend=0.0)
    samples, steps, beside, chance = [], 0, [], []
    while sum(map(len, samples)) < DRAWN and steps < STEPS:
        windows = objective.windows(objective.collate(rows, 1, steps))
        noise, centres = windows.noise.numpy(), windows.centres.numpy().reshape(len(windows.noise), -1)
        samples.append(noise.flatten())
        beside += [float(np.isin(some, own).mean()) for some, own in zip(noise, centres, strict=True)]
        chance += [float(expected[np.unique(own)].sum()) for own in centres]
        steps += 1
    frequent = np.argsort(-expected, kind="stable")[:FREQUENT]
    frequencies = np.bincount(np.concatenate(samples), minlength=len(expected)) / sum(map(len, samples))
    apart = float(np.abs(frequencies[frequent] - expected[frequent]).sum() / max(expected[frequent].sum(), 1e-12))
    counted = np.maximum(objective.tokenizer.counts, 1).astype(float) ** context.spec.noise_power
    off = float(np.abs(expected - counted / counted.sum()).max())
    again = len(samples) > 1 and np.array_equal(samples[0], samples[1])
    near = float(np.mean(beside) - np.mean(chance))  # how much more often they stand beside the words that they are contrasted with
    slack = 2 / math.sqrt(sum(map(len, samples)) / FREQUENT)
    holds = apart < APART + slack and abs(near) < APART / 2 + slack and off < 1e-6 and not again
    claim = (
        "negative samples are words of the whole vocabulary, as frequent as they should be"
        if holds
        else "negative samples are not drawn from their distribution: are they words of the windows?"
    )
    return Proof(
        held=holds,
        claim=claim,
        evidence={"apart": apart, "beside_by_more_than_chance": near, "drawn": sum(map(len, samples)), "same_in_each_step": bool(again)},
    )


def knowing_nothing_costs_what_it_must(context: ProofContext) -> Proof:
    """Vectors of zeros give every pair and every negative the same chance: a pair loses (1 + negatives) × log 2, in training and in an evaluation."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    objective: Any = context.objective
    rows, expected = context.rows, (1 + context.spec.negatives) * math.log(2)
    saved = {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}
    try:
        with torch.no_grad(), eval_mode(model):
            for parameter in model.network.parameters():
                parameter.zero_()
            trained = objective.loss(model, objective.collate(rows, 1, 0).to(next(model.parameters()).device))
            scores = objective.score(model, context.batch(rows))
    finally:
        with torch.no_grad():
            for name, parameter in model.network.named_parameters():
                parameter.copy_(saved[name])
    losses = (float(trained.total) / max(trained.count, 1), float(scores.loss.sum()) / max(float(scores.count.sum()), 1))
    holds = all(abs(each - expected) < 1e-3 * expected for each in losses)
    return Proof(held=holds, claim=f"vectors of zeros lose {losses[0]:.4f} a pair in training and {losses[1]:.4f} in an evaluation; it must be {expected:.4f}",
                 evidence={"training": losses[0], "evaluation": losses[1], "expected": expected})  # fmt: skip


PROOFS = (something_is_learned, pairs_stand_in_windows, negatives_are_drawn), (knowing_nothing_costs_what_it_must,)
