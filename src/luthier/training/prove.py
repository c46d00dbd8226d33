"""The loss proves itself on the run's own rows and model, before step one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.randomness import permutation
from luthier.core.types import Example, Record
from luthier.training.proofs import losses, randomness, tokens
from luthier.training.proofs.question import Proof, Question
from luthier.training.steps import Work

ROWS = 4
LONGEST = 96
TOKEN_PROOFS = (
    tokens.something_is_learned,
    tokens.trained_is_served,
    tokens.the_answer_is_learned_and_nothing_else,
    tokens.the_end_is_learned,
    tokens.control_tokens_stand_once,
)
PROOFS: tuple[Callable[[Question], Proof | None], ...] = (
    *TOKEN_PROOFS,
    losses.packed_is_alone,
    losses.a_row_moves_only_itself,
    losses.judged_as_trained,
    losses.starts_where_it_must,
    losses.padding_changes_nothing,
    randomness.randomness_is_keyed,
    losses.accumulated_is_whole,
    losses.a_few_rows_can_be_learned,
)
"""In this order: those that only read tokens first, the dearest last."""


class Disproved(LuthierError):
    """The loss is not what it should be: training would teach the wrong thing."""

    exit_code = 1


def prove(work: Work, serve: Callable[[Record], list[int]], seconds: float) -> list[Proof]:
    """Try every proof within the time.

    Args:
        work: assembled for this purpose; it is used up.
        serve: a row → the tokens that prediction would give the model.
        seconds: at most; what does not fit is said to be untried.
    """
    until = time.monotonic() + seconds
    order = permutation(len(work.train), work.experiment.seed, "proofs").tolist()
    able = [work.train[row] for row in order if _learns(work.train[row])]
    short = [example for example in able if len(example.tokens) <= LONGEST] or sorted(able, key=lambda each: len(each.tokens))
    question = Question(work, serve, short[:ROWS], until)
    found = []
    for proof in PROOFS:
        if time.monotonic() > until or (len(question.rows) < 2 and proof not in TOKEN_PROOFS):
            found.append(
                Proof(
                    name=_name(proof), held=None, claim="not tried: " + ("the time was up" if question.rows else "no row teaches anything")
                )
            )
            continue
        answer = proof(question)
        if answer is not None:
            found.append(answer.model_copy(update={"name": _name(proof)}))
    return found


def _name(proof: Any) -> str:
    return proof.__name__.replace("_", " ").strip()


def _learns(example: Example) -> bool:
    return any(example.target) if isinstance(example.target, list) else example.target >= 0


def disproved(proofs: Sequence[Proof]) -> Iterator[Proof]:
    """Those that failed."""
    return (proof for proof in proofs if proof.held is False)
