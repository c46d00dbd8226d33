"""Proofs about tokens, for every family that reads text: they look at examples, and ask no model."""

from __future__ import annotations

from luthier.core.proof import Proof, ProofContext, row_of


def something_is_learned(context: ProofContext) -> Proof:
    """Rows have something to learn; it is counted."""
    train = context.train
    none = [example for example in train if not example.units]
    learned = getattr(context.objective, "learned", "class")
    return Proof(held=not none, claim=f"{len(train):,} rows have a {learned} each" if not none else f"{len(none):,} rows have no {learned}",
                 evidence={"rows": len(train), **(row_of(none[0]) if none else {})})  # fmt: skip


def trained_is_served(context: ProofContext) -> Proof:
    """What prediction gives the model is, token for token, what was trained on."""
    for example in context.read[:200]:
        served = list(context.serve(example.record)["tokens"])
        if example.facts.get("cut", 0):
            served = served[: len(example.tokens)]
        trained = list(context.objective.prompt_tokens(example))
        if served != trained:
            position = next(
                (number for number, (one, two) in enumerate(zip(served, trained, strict=False)) if one != two),
                min(len(served), len(trained)),
            )
            return Proof(held=False, claim=f"prediction would give the model other tokens than training did, from token {position} on",
                         evidence={**row_of(example), "trained": trained[position : position + 8], "served": served[position : position + 8]})  # fmt: skip
    return Proof(
        held=True,
        claim="the tokens trained on are those that predict and chat give the model",
        evidence={"rows": min(200, len(context.read))},
    )


def control_tokens_stand_once(context: ProofContext) -> Proof:
    """The beginning token stands there once."""
    special = set(context.tokenizer.all_special_ids)
    for example in context.read:
        if example.tokens[0] in special and list(example.tokens[:2]) == [example.tokens[0]] * 2:
            return Proof(
                held=False,
                claim="the beginning token stands there twice",
                evidence={**row_of(example), "tokens": list(example.tokens[:4])},
            )
    return Proof(
        held=True,
        claim="control tokens stand where the template puts them, and the beginning stands once",
        evidence={"rows": len(context.read)},
    )


READ = (something_is_learned, trained_is_served, control_tokens_stand_once)
"""Those that a family needs which reads all of a text and says one thing of it."""
