"""Prove the loss on the run's own rows and model, before step one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.proof import Proof
from luthier.core.randomness import permutation
from luthier.core.types import Example, Record
from luthier.families import family_of
from luthier.training.proofs import losses, randomness
from luthier.training.proofs.context import ProofInputs
from luthier.training.steps import Work

ROWS = 4
LONGEST = 96
READ = (losses.packed_is_alone, losses.a_row_moves_only_itself, losses.judged_as_trained)
MOVE = (randomness.randomness_is_keyed, losses.accumulated_is_whole, losses.a_few_rows_can_be_learned)
"""Proofs for every family: those that read the model, and those that compute gradients; the dearest last."""


class Disproved(LuthierError):
    """The loss is not what it should be: training would teach the wrong thing."""

    exit_code = 1


def prove(work: Work, serve: Callable[[Record], Any], seconds: float) -> list[Proof]:
    """Try every proof within the time.

    Args:
        work: assembled for this purpose; it is used up.
        serve: a row → what prediction would give the model.
        seconds: at most; what does not fit is said to be untried.
    """
    until = time.monotonic() + seconds
    order = permutation(len(work.train), work.experiment.seed, "proofs").tolist()
    context = ProofInputs(work, serve, _short_rows(work.train, order), until)
    reading, asking = family_of(work.experiment.objective.kind).proofs()  # type: ignore[attr-defined]
    proofs = []
    for proof in (*reading, *READ, *asking, *MOVE):
        if time.monotonic() > until or (len(context.rows) < 2 and proof not in reading):
            proofs.append(
                Proof(
                    name=_name(proof), held=None, claim="not tried: " + ("the time was up" if context.rows else "no row teaches anything")
                )
            )
            continue
        answer = proof(context)
        if answer is not None:
            proofs.append(answer.model_copy(update={"name": _name(proof)}))
    return proofs


def _short_rows(train: Sequence[Example], order: Sequence[int]) -> list[Example]:
    """The first few rows that teach something and are short; where none is, the shortest.

    Args:
        train: made as they are asked for, perhaps: not all exist at once.
        order: in which they are looked at.
    """
    short = islice((train[row] for row in order if train[row].units and train[row].size <= LONGEST), ROWS)
    return list(short) or nsmallest(ROWS, (train[row] for row in order if train[row].units), key=lambda example: example.size)


def _name(proof: Any) -> str:
    return proof.__name__.replace("_", " ").strip()


def find_disproved(proofs: Sequence[Proof]) -> Iterator[Proof]:
    """Those that failed."""
    return (proof for proof in proofs if proof.held is False)
