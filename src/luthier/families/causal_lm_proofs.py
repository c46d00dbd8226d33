"""Proofs for causal language modelling: each token of a document is predicted once, from those before it in the same document, and nothing else is learned."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import Example

READ = 200
"""Blocks that are read again from their documents."""
KNOWS = 0.7
"""Of the loss of a model that knows nothing: below, it knows something."""
READ_CHARACTERS = 2_000_000
"""Of their documents, at most."""


def something_is_learned(context: ProofContext) -> Proof:
    """Documents have tokens to predict; they are counted."""
    tokens, documents = 0, 0
    for example in context.train:
        tokens += int(example.units)
        documents += example.facts["at"] == 0
    return Proof(held=tokens > 0, claim=f"{tokens:,} tokens of {documents:,} rows are predicted, in {len(context.train):,} blocks",
                 evidence={"tokens": tokens, "rows": documents, "blocks": len(context.train)})  # fmt: skip


def trained_is_served(context: ProofContext) -> Proof:
    """What prediction gives the model of a document is, token for token, what was trained on."""
    blocks = _some(context)
    for example in blocks:
        at = example.facts["at"]
        served = list(context.serve(example.record)["tokens"])[at : at + example.size]
        trained = np.asarray(example.tokens).tolist()
        if served != trained:
            return Proof(held=False, claim=f"prediction would give the model other tokens than training did, from token {at + _first_difference(served, trained)} on",
                         evidence={**row_of(example), "trained": trained[:8], "served": served[:8]})  # fmt: skip
    return Proof(held=True, claim="the tokens trained on are those that predict gives the model", evidence={"blocks": len(blocks)})


def each_token_is_predicted_once(context: ProofContext) -> Proof:
    """What a block is asked for is what follows in its own document, and the blocks of a document ask for all of it, once."""
    objective: Any = context.objective
    targets: Counter[int] = Counter()
    for example in context.train:
        targets[example.facts["document"]] += int(example.units)
    blocks = _some(context)
    for example in blocks:
        text = objective.text_of(example.record)
        whole = [objective.before, *context.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        whole += [objective.end] if context.spec.ends else []
        at, batch = example.facts["at"], context.batch([example])
        read, following = (batch.flat[name].tolist() for name in ("tokens", "next"))
        problem = ""
        if len(following) != int(example.units) or targets[example.facts["document"]] != len(whole) - 1:
            problem = f"{len(following):,} tokens of a block and {targets[example.facts['document']]:,} of its document are asked for: {int(example.units):,} and {len(whole) - 1:,} are there"
        elif read != whole[at : at + len(read)]:
            problem = f"a block reads what does not stand in its document, from token {at + _first_difference(read, whole[at : at + len(read)])} on"
        elif following != whole[at + 1 : at + 1 + len(following)]:
            problem = (
                f"a block is asked for another token than the next one, from token {at + _first_difference(following, whole[at + 1 :])} on"
            )
        if problem:
            return Proof(held=False, claim=problem, evidence={**row_of(example), "read": read[:8], "asked_for": following[:8], "stands_there": whole[at : at + 9]})  # fmt: skip
    return Proof(
        held=True,
        claim="each token of a document is asked for once, behind those before it, and nothing else is",
        evidence={"blocks": len(blocks)},
    )


def starts_where_it_must(context: ProofContext) -> Proof:
    """A model that knows nothing hesitates among all tokens; one that knows something finds the next token likelier than the one behind it."""
    from luthier.evaluation.score import score

    rows = context.rows
    own = score(context.model, context.objective, rows)
    began = float(own.loss.sum() / own.count.sum())
    moved = [replace(row, target=np.roll(row.target, -1)) for row in rows]
    late = score(context.model, context.objective, moved)
    shifted = float(late.loss.sum() / late.count.sum())
    nothing = math.log(len(context.tokenizer))
    holds = began < shifted if began < KNOWS * nothing else began < nothing + 2
    return Proof(held=holds, claim=f"the loss begins at {began:.3f} nats a token (knowing nothing: {nothing:.3f}; the targets moved by one: {shifted:.3f})",
                 evidence={"loss": began, "knowing_nothing": nothing, "moved_by_one": shifted})  # fmt: skip


def _some(context: ProofContext) -> list[Example]:
    """Blocks to be read again, of as many documents as may be read."""
    blocks, read = [], 0
    objective: Any = context.objective
    for example in context.read[:READ]:
        read += len(objective.text_of(example.record))
        if blocks and read > READ_CHARACTERS:
            break
        blocks.append(example)
    return blocks


def _first_difference(one: list[int], other: list[int]) -> int:
    """The first place where two lists differ."""
    return next((index for index, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))


PROOFS = (something_is_learned, trained_is_served, each_token_is_predicted_once), (starts_where_it_must,)
"""Those that only read examples, and those that ask the model."""
