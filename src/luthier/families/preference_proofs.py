"""Proofs for preference pairs: what is compared is both answers as the rows have them, and the better one is favoured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from luthier.core.proof import CLOSE_FP32, Proof, ProofContext, row_of
from luthier.core.types import Example, Message
from luthier.data.chat import prompt, render
from luthier.data.pairs import SIDES, pair_of

READ = 200
"""Rows whose tokens are looked at."""
ALIKE = 0.99
"""Cosine of two gradients that must be the same but for rounding."""


def pairs_can_be_learned(context: ProofContext) -> Proof:
    """Both answers are there, and differ, after long ones have been cut."""
    train = context.train
    silent = [example for example in train if not example.units]
    tokens = [sum(example.facts["lengths"][side] for example in train) for side in (0, 1)]
    cut = sum(example.facts["cut"] for example in train)
    return Proof(held=len(silent) <= 0.5 * len(train), evidence={"pairs": len(train), "silent": len(silent), "cut_off": cut, **dict(zip(SIDES, tokens, strict=True)), **(row_of(silent[0]) if silent else {})},
                 claim=f"{len(train):,} pairs: {tokens[0]:,} tokens of better answers against {tokens[1]:,} of worse ones, {cut:,} were cut off; {len(silent):,} pairs teach nothing")  # fmt: skip


def both_answers_are_compared_and_nothing_else(context: ProofContext) -> Proof:
    """The learned tokens spell the better answer first, then the worse one, as they stand in the row; no prompt is among them."""
    tokenizer = context.tokenizer
    for example in context.read[:READ]:
        pair = pair_of(example.record.values, context.objective.input)
        for side, part in enumerate(_sides(example)):
            learned_text = strip_control_tokens(
                tokenizer, tokenizer.decode([example.tokens[position] for position in part if example.target[position]])
            )
            expected, other = pair.answers[side].strip(), pair.answers[1 - side].strip()
            if spells(tokenizer, learned_text, expected, example.facts["cut"]):
                continue
            claim = f"more or less than the {SIDES[side]} answer is learned as such"
            if spells(tokenizer, learned_text, other, 0):
                claim = "chosen and rejected are the wrong way round: the rejected answer would be preferred"
            return Proof(held=False, claim=claim, evidence={**row_of(example), SIDES[side]: expected[:200], "learned": learned_text[:200]})
    rows = min(READ, len(context.read))
    return Proof(held=True, claim="the better and the worse answer are compared as they stand in the rows; the prompts are not learned", evidence={"rows": rows})  # fmt: skip


def strip_control_tokens(tokenizer: Any, text: str) -> str:
    """A text without what looks like a control token in it, as the learned tokens are compared."""
    for mark in tokenizer.all_special_tokens:
        text = text.replace(mark, "")
    return text.strip()


def spells(tokenizer: Any, said: str, answer: str, cut: int) -> bool:
    """Whether the learned tokens are an answer as it stands in the row, or its beginning where it was cut off.

    Args:
        tokenizer: knows what looks like a control token.
        said: the learned tokens as text, bare.
        answer: the row's.
        cut: tokens that were cut off.
    """
    whole, plain = answer.strip(), strip_control_tokens(tokenizer, answer)
    return said in (whole, plain) or (cut > 0 and plain.startswith(said.rstrip("\ufffd")))


def _sides(example: Example) -> list[range]:
    """The places of both sides of a pair."""
    start = example.inputs["place"].index(0, 1)
    return [range(start), range(start, len(example.tokens))]


def both_ends_are_learned(context: ProofContext) -> Proof:
    """The last learned token of each whole answer is the one at which generation stops."""
    end = int(context.tokenizer.eos_token_id)
    whole = [example for example in context.read if not example.facts["cut"]]
    for example in whole:
        for side, part in zip(SIDES, _sides(example), strict=True):
            last = max((position for position in part if example.target[position]), default=part[-1])
            if example.tokens[last] != end:
                return Proof(held=False, claim=f"the {side} answer ends without the token that stops generation: where it ends would not be compared",
                             evidence={**row_of(example), "ends_with": example.tokens[last], "stops_at": end})  # fmt: skip
    return Proof(
        held=True,
        claim="both answers end with the token that stops generation, and it is compared",
        evidence={"token": end, "rows": len(whole)},
    )


def starts_as_the_reference(context: ProofContext) -> Proof:
    """Before step one the model is the reference: no answer has gained on the other, so the loss is that of a coin."""
    return loss_begins_at(context, float(context.spec.at_start))


def loss_begins_at(context: ProofContext, expected: float) -> Proof:
    """Before step one the loss is what it must be where nothing has moved from the reference.

    Args:
        context: the model and the rows.
        expected: that loss, a row.
    """
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    apart = abs(began - expected) / expected
    return Proof(held=apart <= context.close, claim=f"the loss begins at {began:.5f}; while nothing has moved from the reference it is {expected:.5f}",
                 evidence={"loss": began, "expected": expected, "relative_difference": apart, "allowed": context.close})  # fmt: skip


def the_better_answer_is_preferred(context: ProofContext) -> Proof:
    """A step on a pair makes its better answer likelier against the worse one: the loss falls in the direction in which transformers' own log-probabilities of the two part."""
    model: Any = context.model
    example = min(context.rows, key=lambda each: each.size)
    with computed_anew(model):
        falls = gradient(model, lambda: context.objective.loss(model, context.batch([example])).total)
        parts = gradient(
            model,
            lambda: (
                _sum_or_mean(context, _answer_log_probabilities(context, example, 0))
                - _sum_or_mean(context, _answer_log_probabilities(context, example, 1))
            ),
        )
    alike = cosine(falls, parts)
    holds = alike <= -ALIKE
    claim = "a step makes the better answer likelier against the worse one" if holds else (
        "a step would make the worse answer likelier: the preference is reversed" if alike >= ALIKE else "the loss does not compare the two answers")  # fmt: skip
    return Proof(
        held=holds,
        claim=f"{claim} (cosine {alike:.4f} with the gradient of their log-probabilities)",
        evidence={"cosine": alike, **row_of(example)},
    )


def log_probabilities_are_exact(context: ProofContext) -> Proof:
    """Both answers' log-probabilities, of a pair in one pass whose prompt is read once, are those of transformers' own forward pass of each by itself; in fp32."""
    from luthier.objectives.reference import score_answers

    model: Any = context.model
    example = min(context.rows, key=lambda each: each.size)
    with computed_anew(model):
        (ours,) = score_answers(context.objective, model, [example])
        theirs = [float(_answer_log_probabilities(context, example, side).detach().sum()) for side in (0, 1)]
    first = example.facts["lengths"][0]
    return compare_log_probabilities(example, [float(ours[:first].sum()), float(ours[first:].sum())], theirs)


def compare_log_probabilities(example: Example, ours: Sequence[float], theirs: Sequence[float]) -> Proof:
    """The log-probabilities of a row's answers are the same in both ways of computing them.

    Args:
        example: the row.
        ours: of each answer.
        theirs: the same, by transformers' own forward pass of each by itself.
    """
    apart = max(abs(one - two) / max(abs(two), 1e-2) for one, two in zip(ours, theirs, strict=True))
    return Proof(held=apart <= CLOSE_FP32, claim=f"the answers' log-probabilities are transformers' own (they differ by {apart:.1e})",
                 evidence={"relative_difference": apart, "allowed": CLOSE_FP32, "answers": len(theirs), **row_of(example)})  # fmt: skip


@contextlib.contextmanager
def computed_anew(model: Any) -> Iterator[None]:
    """As in an evaluation, in fp32, with nothing kept of frozen blocks."""
    from luthier.models.modes import eval_mode
    from luthier.models.precision import in_fp32

    cache, model.frozen_cache = getattr(model, "frozen_cache", None), None
    try:
        with eval_mode(model), in_fp32(model.network):
            yield
    finally:
        model.frozen_cache = cache


def _answer_log_probabilities(context: ProofContext, example: Example, side: int) -> Any:
    """The log-probabilities of the tokens of one of a row's answers, read from the row anew, # (learned,)"""
    return answer_said(context, pair_of(example.record.values, context.objective.input).messages(side))


def answer_said(context: ProofContext, messages: Sequence[Message]) -> Any:
    """The log-probabilities of the tokens of a conversation's last answer, by transformers' own forward pass, # (learned,)"""
    from luthier.models.generate import log_probabilities_of

    prompt_tokens, whole = prompt(context.tokenizer, messages[:-1])[0], render(context.tokenizer, messages).tokens
    model: Any = context.model
    return log_probabilities_of(model, whole[: context.spec.max_length])[len(prompt_tokens) - 1 :]


def _sum_or_mean(context: ProofContext, log_probabilities: Any) -> Any:
    """An answer's log-probability from those of its tokens, as the loss takes it."""
    return log_probabilities.mean() if context.spec.averages else log_probabilities.sum()


def cosine(ones: Sequence[Any], others: Sequence[Any]) -> float:
    """Of the angle between two gradients, given weight by weight."""
    import torch

    def product(first: Sequence[Any], second: Sequence[Any]) -> float:
        return sum(float((one * other).sum(dtype=torch.float64)) for one, other in zip(first, second, strict=True))

    return product(ones, others) / max((product(ones, ones) * product(others, others)) ** 0.5, 1e-30)


def gradient(model: Any, make: Callable[[], Any]) -> list[Any]:
    """The gradient of a number, for each weight that moves."""
    import torch

    moving = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    for parameter in moving:
        parameter.grad = None
    make().backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in moving]
    for parameter in moving:
        parameter.grad = None
    return [(each.to_dense() if each.is_sparse else each).float() for each in gradients]
