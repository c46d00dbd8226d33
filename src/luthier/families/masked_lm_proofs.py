"""Proofs for masked language modelling: what is guessed stood there, and as much of it is hidden as should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import HELD_OUT, Example

MASKED, REPLACED, KEPT = 0.8, 0.1, 0.1
"""Of the guessed tokens: hidden behind the mask token, replaced by any token, left as they are (Devlin et al. 2019, section 3.1).

Written down again on purpose: a proof that took the shares from what it judges would agree with any.
"""
GUESSED = 2_000
"""Tokens that are counted: enough to tell 80 % from 75 %."""
STEPS = 40
"""Passes over the rows at most that they are taken from."""
TOGETHER = 64
"""Rows that are collated at once."""
ALARMS = 1e-6
"""How often a healthy run may be called faulty, at most."""
TESTS = 16
"""Tails that are looked at: of three shares and of the number of guesses, above and below, in training and in evaluation."""


@dataclass
class Guesses:
    """What was counted of guessed tokens.

    Args:
        able: tokens, or words where whole words are guessed, that could have been.
        guessed: of those, how many are.
        alone: rows with exactly one, which may be there because a row has one at least.
        tokens: guessed tokens.
        masked: of those behind the mask token.
        kept: of those that stay as they are.
    """

    able: int = 0
    guessed: int = 0
    alone: int = 0
    tokens: int = 0
    masked: int = 0
    kept: int = 0


@dataclass
class Seen:
    """A row as a step shows it.

    Args:
        example: the row.
        shown: its tokens as the model reads them, # (tokens,)
        wanted: what is to be guessed at each, or -1, # (tokens,)
    """

    example: Example
    shown: np.ndarray
    wanted: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """Its tokens, # (tokens,)"""
        return np.asarray(self.example.tokens)

    @property
    def words(self) -> np.ndarray:
        """The word that each is of, or -1 for what the tokenizer puts around a text, # (tokens,)"""
        return np.asarray(self.example.facts["words"])


def something_is_learned(context: ProofContext) -> Proof:
    """Rows have tokens that can be hidden; they are counted."""
    train = context.train
    empty, tokens = [], 0
    for example in train:
        tokens += int(example.units)
        empty += [example] if not example.units else []
    return Proof(held=not empty, claim=f"{len(train):,} rows have {tokens:,} tokens that may be hidden" if not empty else f"{len(empty):,} rows have no token that could be hidden",
                 evidence={"rows": len(train), "tokens": tokens, **(row_of(empty[0]) if empty else {})})  # fmt: skip


def a_guess_is_what_stood_there(context: ProofContext) -> Proof:
    """What is to be guessed at a place is the token that stood at it in the row; control tokens and padding are not guessed, and all else is shown as it stands."""
    guesses = 0
    for seen in _of_steps(context, (HELD_OUT, 0)):
        asked = seen.wanted >= 0
        guesses += int(asked.sum())
        for wrong, problem in (
            (asked & (seen.words < 0), "is one that the tokenizer put around the text, and has to be guessed"),
            (asked & (seen.wanted != seen.own), "is to be guessed as another one than stood there: the targets are moved"),
            (~asked & (seen.shown != seen.own), "is changed, and nobody asks for what stood there"),
        ):
            if wrong.any():
                place = int(wrong.argmax())
                return Proof(held=False, claim=f"token {place + 1} of a row {problem}",
                             evidence={**row_of(seen.example), "stood": int(seen.own[place]), "shown": int(seen.shown[place]), "guessed": int(seen.wanted[place])})  # fmt: skip
    return Proof(
        held=True, claim=f"{guesses:,} guesses are of the tokens that stood there, none of a control token", evidence={"guesses": guesses}
    )


def hidden_is_hidden(context: ProofContext) -> Proof:
    """As many tokens are guessed, hidden, replaced and kept as should be, and a model that knows nothing hesitates among all tokens.

    Each count is compared with its binomial distribution, exactly: a healthy run is called faulty less than once in a million times.
    """
    import torch

    from luthier.models.modes import eval_mode

    problems, evidence = [], {}
    for name, steps in (("training", range(STEPS)), ("evaluation", (HELD_OUT,))):
        found = _count(context, steps)
        problems += [f"in {name} {problem}" for problem in _unlikely(found, context)]
        evidence[name] = vars(found)
    model: Any = context.model
    batch = context.batch(context.rows)
    guessed = int((batch.flat["hidden"] >= 0).sum())
    with eval_mode(model), torch.no_grad():
        logits = model.guess(model.hidden_states(batch)[:1])
        began = float(context.objective.score(model, batch).loss.sum() / max(guessed, 1))
    knows_nothing = float(np.log(logits.shape[-1]))
    counts = evidence["training"]
    claim = (
        f"{counts['masked']:,} of {counts['tokens']:,} guessed tokens stand behind the mask token ({MASKED:.0%} should), "
        f"{counts['kept']:,} stay as they are ({KEPT:.0%} should); the loss begins at {began:.3f} (knowing nothing: {knows_nothing:.3f})"
    )
    return Proof(held=not problems and began <= knows_nothing + 2, claim="; ".join([*problems[:1], claim] if problems else [claim]),
                 evidence={**evidence, "loss": began, "knowing_nothing": knows_nothing, "problems": problems})  # fmt: skip


PROOFS = (something_is_learned, a_guess_is_what_stood_there), (hidden_is_hidden,)


def _of_steps(context: ProofContext, steps: Iterable[int]) -> Iterator[Seen]:
    """Training rows as these steps show them, one after the other."""
    rows = [example for example in context.read if example.units]
    for step in steps:
        for start in range(0, len(rows), TOGETHER):
            yield from _rows(context, rows[start : start + TOGETHER], step)


def _rows(context: ProofContext, examples: Sequence[Example], step: int) -> Iterator[Seen]:
    """The rows of a batch."""
    batch = context.objective.collate(examples, 1, step)
    shown, wanted = (batch.flat[name].cpu().numpy() for name in ("tokens", "hidden"))
    ends = np.cumsum(batch.lengths.cpu().numpy())[:-1]
    for example, read, asked in zip(examples, np.split(shown, ends), np.split(wanted, ends), strict=True):
        yield Seen(example, read, asked)


def _count(context: ProofContext, steps: Iterable[int]) -> Guesses:
    """What becomes of enough guessed tokens."""
    mask, found = context.tokenizer.mask_token_id, Guesses()
    for seen in _of_steps(context, steps):
        asked = seen.wanted >= 0
        units = seen.words if context.spec.whole_words else np.arange(len(seen.words))
        guesses = len(np.unique(units[asked & (seen.words >= 0)]))
        found.able += len(np.unique(units[seen.words >= 0]))
        found.guessed += guesses
        found.alone += guesses == 1
        counted = asked & (seen.own != mask)  # a text may say the mask token itself
        found.tokens += int(counted.sum())
        found.masked += int((counted & (seen.shown == mask)).sum())
        found.kept += int((counted & (seen.shown == seen.own)).sum())
        if found.tokens >= GUESSED:
            break
    return found


def _unlikely(found: Guesses, context: ProofContext) -> list[str]:
    """The counts that chance would give a healthy run less than once in a million times, each in words."""
    from scipy.stats import binom

    bound, by_chance = ALARMS / TESTS, 1 / len(context.tokenizer)  # any token: the mask token, or the one that stood there
    problems = []
    for words, count, share in (
        ("stand behind the mask token", found.masked, MASKED + REPLACED * by_chance),
        ("stay as they are", found.kept, KEPT + REPLACED * by_chance),
        ("are replaced by another", found.tokens - found.masked - found.kept, REPLACED * (1 - 2 * by_chance)),
    ):
        if min(binom.cdf(count, found.tokens, share), binom.sf(count - 1, found.tokens, share)) < bound:
            problems.append(f"{count:,} of {found.tokens:,} guessed tokens {words}, and {share:.0%} should")
    share, unit = context.spec.mask_share, "words" if context.spec.whole_words else "tokens"
    # a row has one guess at least, so there are as many as chance gives or more, by no more than the rows that have just one
    if min(binom.cdf(found.guessed, found.able, share), binom.sf(found.guessed - found.alone - 1, found.able, share)) < bound:
        problems.append(f"{found.guessed:,} of {found.able:,} {unit} are guessed, and about {share:.0%} should be")
    return problems
