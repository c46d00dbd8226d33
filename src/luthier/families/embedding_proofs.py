"""Proofs for sentence embeddings: vectors and loss are those of their definitions, and no text is its own negative."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from luthier.core.proof import CLOSE_FP32, Proof, ProofContext, row_of
from luthier.core.types import Example

ALLOWED = 1e-3
"""How near two ways of computing a loss must be in fp32: cosines are multiplied by the scale before their softmax."""


@contextlib.contextmanager
def _exactly(context: ProofContext) -> Iterator[Any]:
    """The model in eval mode, in fp32, with nothing kept of frozen blocks and no gradient, for the time of the context."""
    import torch

    from luthier.models.modes import eval_mode
    from luthier.models.precision import in_fp32

    model: Any = context.model
    cache, model.frozen_cache = getattr(model, "frozen_cache", None), None
    try:
        with eval_mode(model), in_fp32(model.network), torch.no_grad():
            yield model
    finally:
        model.frozen_cache = cache


def _by_definition(context: ProofContext, model: Any, rows: Sequence[Example]) -> Any:
    """The vectors of the texts as they stand in the rows, by transformers' own forward pass on padded texts, # (rows, texts, width)"""
    import torch

    tokenizer, names = context.tokenizer, context.objective.input
    texts = [str(example.record.values.get(name) or "") for example in rows for name in names]
    read = tokenizer(texts, truncation=True, max_length=context.spec.max_length, padding=True, return_tensors="pt")
    device = next(model.parameters()).device
    vectors = model.embed_padded(read["input_ids"].to(device), read["attention_mask"].to(device))
    return torch.as_tensor(vectors).unflatten(0, (len(rows), len(names)))


def vectors_are_the_librarys(context: ProofContext) -> Proof:
    """The vectors are those that transformers' own forward pass and the mean over the tokens that are there give, of texts read from the rows anew."""
    rows = context.rows
    with _exactly(context) as model:
        objective: Any = context.objective
        ours = objective.vectors(model, context.batch(rows))
        apart = (ours - _by_definition(context, model, rows)).norm(dim=-1)
    worst = int(apart.max(1).values.argmax())
    holds = float(apart.max()) <= 10 * CLOSE_FP32
    return Proof(held=holds, evidence={"largest_distance": float(apart.max()), "allowed": 10 * CLOSE_FP32, **({} if holds else row_of(rows[worst]))},
                 claim=f"the vectors {'are' if holds else 'are not'} those of transformers' own forward pass, pooled over the tokens that are there (they differ by {float(apart.max()):.1e})")  # fmt: skip


def the_loss_is_that_of_the_definition(context: ProofContext) -> Proof:
    """Each row's own text is the right answer: the loss is that of the definition, written out row by row."""
    rows, objective = _with_different_keys(context.rows), context.objective
    with _exactly(context) as model:
        loss = float(objective.loss(model, context.batch(rows)).total)
        expected = float(_loss_by_definition(context, _by_definition(context, model, rows), rows))
    apart = abs(loss - expected) / max(abs(expected), 0.1)
    holds = apart <= ALLOWED
    what = "the score of the row itself" if context.objective.target is not None else "the row's own text"  # type: ignore[attr-defined]
    return Proof(held=holds, evidence={"loss": loss, "expected": expected, "relative_difference": apart, "allowed": ALLOWED},
                 claim=f"the loss is {loss:.5f}; where {what} is the right answer it is {expected:.5f}")  # fmt: skip


def _with_different_keys(rows: Sequence[Example]) -> list[Example]:
    """Rows no two of which have a text in common."""
    results: list[Example] = []
    keys: set[int] = set()
    for example in rows:
        if not keys & set(example.facts["keys"]):
            results.append(example)
            keys |= set(example.facts["keys"])
    return results


def _loss_by_definition(context: ProofContext, vectors: Any, rows: Sequence[Example]) -> Any:
    """The summed loss of rows that have no text in common, from its definition."""
    import torch

    anchors, others = vectors[:, 0], vectors[:, 1:]
    if rows[0].target is not None:
        return sum((anchors[index] @ others[index, 0] - example.target) ** 2 for index, example in enumerate(rows))
    total = 0.0
    for index in range(len(rows)):
        cosines = torch.stack([anchors[index] @ others[row, side] for side in range(others.shape[1]) for row in range(len(rows))])
        total = total - torch.log_softmax(context.spec.scale * cosines, 0)[index]
    return total


def no_text_is_its_own_negative(context: ProofContext) -> Proof:
    """A row beside a copy of itself has the loss that it has alone: what belongs to it is not pushed away where it stands in another row."""
    example, objective = context.rows[0], context.objective
    copy = replace(example, index=example.index + 1)
    with _exactly(context) as model:
        alone = float(objective.loss(model, context.batch([example])).total)
        twice = float(objective.loss(model, context.batch([example, copy])).total) / 2
    # a negative column stands there twice then, and a copy of it is a negative all the same
    with_negative = len(example.facts["keys"]) > 2
    expected = alone if not with_negative else _twice_the_negative(alone)
    apart = abs(twice - expected) / max(abs(expected), 0.1)
    holds = apart <= ALLOWED
    return Proof(held=holds, evidence={"alone": expected, "beside_its_copy": twice, **row_of(example)},
                 claim=f"a row beside its copy has the loss {twice:.5f}, and {expected:.5f} by itself" + ("" if holds else ": its own positive is taken for a negative"))  # fmt: skip


def _twice_the_negative(alone: float) -> float:
    """The log loss against a negative that stands there twice, from the one against it once."""
    import math

    return math.log1p(2 * math.expm1(alone))


ASK = (vectors_are_the_librarys, the_loss_is_that_of_the_definition, no_text_is_its_own_negative)
"""Those that ask the model."""
