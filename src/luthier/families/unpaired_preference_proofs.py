"""Proofs for single answers that are good or bad: what is judged is the row's own answer, as its label says, and it goes the right way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import Example
from luthier.data.judged_answers import conversation_with, parse_judged_answer, prompt_of
from luthier.families.preference_proofs import (
    ALIKE,
    READ,
    answer_said,
    compare_log_probabilities,
    computed_anew,
    cosine,
    gradient,
    loss_begins_at,
    spells,
    strip_control_tokens,
)
from luthier.objectives.unpaired_preference import KINDS, MISMATCHED


def answers_can_be_learned(context: ProofContext) -> Proof:
    """Answers of both kinds are there after long ones have been cut."""
    train = context.train
    silent = [example for example in train if not example.units]
    count = [sum(example.target == kind for example in train if example.units) for kind in (1, 0)]
    cut = sum(example.facts["cut"] for example in train)
    holds = all(count) and len(silent) <= 0.5 * len(train)
    weights = context.spec.weights
    return Proof(held=holds, evidence={"good": count[0], "bad": count[1], "silent": len(silent), "cut_off": cut, "weights": list(weights), **(row_of(silent[0]) if silent else {})},
                 claim=f"{count[0]:,} good answers, each counting {weights[1]:g}, and {count[1]:,} bad ones, each {weights[0]:g}; {cut:,} tokens were cut off; {len(silent):,} rows teach nothing")  # fmt: skip


def the_answer_is_judged_and_nothing_else(context: ProofContext) -> Proof:
    """The learned tokens spell the row's answer, no prompt is among them, and the answer counts as what its label says."""
    tokenizer = context.tokenizer
    for example in context.read[:READ]:
        row = _row(context, example)
        learned_text = _decode_learned(tokenizer, example)
        if bool(example.target) != row.good:
            claim = f"an answer that its row calls {KINDS[row.good]} would be learned as {KINDS[not row.good]}"
        elif spells(tokenizer, learned_text, row.answer, example.facts["cut"]):
            continue
        else:
            claim = "more or less than the row's own answer is learned"
        return Proof(held=False, claim=claim, evidence={**row_of(example), "answer": row.answer[:200], "learned": learned_text[:200]})
    return Proof(held=True, claim="the answers are learned as they stand in the rows, good ones as good and bad ones as bad; the prompts are not learned",
                 evidence={"rows": min(READ, len(context.read))})  # fmt: skip


def the_end_is_learned(context: ProofContext) -> Proof:
    """The last learned token of a whole answer is the one at which generation stops."""
    end = int(context.tokenizer.eos_token_id)
    whole = [example for example in context.read if not example.facts["cut"]]
    for example in whole:
        last = max((position for position, learned in enumerate(example.facts["learned"]) if learned), default=-1)
        if example.tokens[last] != end:
            return Proof(held=False, claim="an answer ends without the token that stops generation: where it ends would not be judged",
                         evidence={**row_of(example), "ends_with": example.tokens[last], "stops_at": end})  # fmt: skip
    return Proof(held=True, claim="answers end with the token that stops generation, and it is judged", evidence={"token": end, "rows": len(whole)})  # fmt: skip


def mismatched_answers_are_of_other_prompts(context: ProofContext) -> Proof | None:
    """What gains are compared with are answers of training rows that have other prompts, behind the row's own prompt."""
    if not context.spec.compares:
        return None
    train = {(example.record.source, example.record.row) for example in context.train}
    there = [example for example in context.read if MISMATCHED in example.facts]
    for example in there[:READ]:
        beside, other = example.facts[MISMATCHED], example.facts["answer_of"]
        prompt = prompt_of(other.values, context.objective.input)
        learned_text, answer = _decode_learned(context.tokenizer, beside), _row_of(context, other).answer
        fault = ""
        if prompt == _row(context, example).prompt:
            fault = "is one to the row's own prompt"
        elif list(beside.facts["prompt"]) != list(context.objective.prompt_tokens(example)):
            fault = "stands behind another prompt than the row's own"
        elif (other.source, other.row) not in train:
            fault = "comes from a row that is not trained on"
        elif not spells(context.tokenizer, learned_text, answer, beside.facts["cut"]):
            fault = "is not that of the row that it is said to come from"
        if fault:
            return Proof(held=False, claim=f"a mismatched answer {fault}: the level that gains are compared with would be wrong",
                         evidence={**row_of(example), "answer_of": {"file": other.source, "line": other.row}, "learned": learned_text[:200]})  # fmt: skip
    return Proof(held=len(there) > 0, evidence={"rows": len(there), "without": len(context.read) - len(there)},
                 claim=f"{len(there):,} mismatched answers, of other prompts, say what an answer gains by itself" if there
                 else "no row has another prompt than the others: there are no mismatched answers to compare with (--set objective.loss=apo_zero needs none)")  # fmt: skip


def starts_as_the_reference(context: ProofContext) -> Proof:
    """Before step one the model is the reference: no answer has gained, so the loss of each is half its weight."""
    return loss_begins_at(context, sum(context.spec.at_start(bool(example.target)) for example in context.rows) / len(context.rows))


def log_probabilities_are_exact(context: ProofContext) -> Proof:
    """The log-probabilities of an answer and of the mismatched one beside it are those of transformers' own forward pass of each by itself; in fp32."""
    from luthier.evaluation.score import score

    model: Any = context.model
    example = min(context.rows, key=lambda each: each.size)
    row = _row(context, example)
    conversations = {"said": row.messages}
    if MISMATCHED in example.facts and example.facts[MISMATCHED].units:
        conversations["mismatched_said"] = conversation_with(row.prompt, _row_of(context, example.facts["answer_of"]).answer)
    with computed_anew(model):
        scores = score(model, context.objective, [example], answers=0)
        theirs = {name: float(answer_said(context, messages).detach().sum()) for name, messages in conversations.items()}
    return compare_log_probabilities(example, [float(scores.more[name][0]) for name in theirs], list(theirs.values()))


def good_answers_become_likelier_and_bad_ones_less(context: ProofContext) -> Proof:
    """A step on a good answer makes it likelier, one on a bad answer less likely: the gradient of the loss is set against that of transformers' own log-probabilities."""
    model: Any = context.model
    cosines: dict[str, float] = {}
    wrong = ""
    for example in _one_of_each(context):
        row = _row(context, example)
        with computed_anew(model):
            falls = gradient(model, lambda example=example: context.objective.loss(model, context.batch([example])).total)
            rises = gradient(model, lambda row=row: answer_said(context, row.messages).sum())
        alike = cosine(falls, rises)
        cosines[KINDS[row.good]] = alike
        way = -alike if row.good else alike  # which way the step goes, down the loss: 1 as it should
        if way < ALIKE and not wrong:
            wrong = (f"a step would make a {KINDS[row.good]} answer {'less likely' if row.good else 'likelier'}: the labels are reversed" if way <= -ALIKE
                     else f"the loss of a {KINDS[row.good]} answer does not follow its log-probability")  # fmt: skip
    listing = ", ".join(f"{kind} {value:.4f}" for kind, value in cosines.items())
    holds = not wrong and len(cosines) == len(KINDS)
    claim = wrong or "a step makes a good answer likelier and a bad one less likely"
    return Proof(
        held=holds, claim=f"{claim} (cosines with the gradients of their log-probabilities: {listing})", evidence={"cosines": cosines}
    )


def _one_of_each(context: ProofContext) -> Sequence[Example]:
    """The shortest good and the shortest bad answer of those that are looked at."""
    read = [example for example in (*context.rows, *context.read) if example.units]
    kinds = [[example for example in read if _row(context, example).good == good] for good in (True, False)]
    return [min(examples, key=lambda each: each.size) for examples in kinds if examples]


def _decode_learned(tokenizer: Any, example: Example) -> str:
    """The learned tokens as text, without control tokens."""
    return strip_control_tokens(
        tokenizer, tokenizer.decode([token for token, learned in zip(example.tokens, example.facts["learned"], strict=True) if learned])
    )


def _row(context: ProofContext, example: Example) -> Any:
    """What the row of an example says, read anew."""
    return _row_of(context, example.record)


def _row_of(context: ProofContext, record: Any) -> Any:
    """The same, of a record."""
    objective: Any = context.objective
    return parse_judged_answer(record.values, objective.input, objective.target)
