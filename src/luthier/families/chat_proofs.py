"""Proofs for chat: the answer and its end are learned, nothing else is, and padding changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.proof import CLOSE_FP32, Proof, ProofContext, row_of
from luthier.core.types import Example, Message
from luthier.data.chat import prompt


def something_is_learned(context: ProofContext) -> Proof:
    """Rows have something to learn; it is counted."""
    train = context.train
    silent = [example for example in train if not example.units]
    tokens, learned = sum(example.size for example in train), sum(int(example.units) for example in train)
    cut = sum(example.facts.get("cut", 0) for example in train)
    evidence = {
        "tokens": tokens,
        "learned": learned,
        "masked": tokens - learned,
        "cut_off": cut,
        "rows": len(train),
        "silent_rows": len(silent),
    }
    return Proof(held=len(silent) <= 0.5 * len(train), evidence=evidence | (row_of(silent[0]) if silent else {}),
                 claim=f"{learned:,} of {tokens:,} tokens are learned, {cut:,} were cut off; {len(silent):,} of {len(train):,} rows teach nothing")  # fmt: skip


def the_answer_is_learned_and_nothing_else(context: ProofContext) -> Proof:
    """The learned tokens spell the assistant's words, and no others."""
    tokenizer = context.tokenizer
    for example in context.read[:200]:
        messages: list[Message] = example.facts["messages"]
        learned_text = tokenizer.decode([token for token, learned in zip(example.tokens, example.target, strict=True) if learned])
        position = 0
        for message in messages:
            if message["role"] != "assistant":
                continue
            words = message["content"].strip()
            at = learned_text.find(words, position)
            if at < 0 and not example.facts.get("cut", 0):
                return Proof(
                    held=False,
                    claim="an answer is not among what is learned",
                    evidence={**row_of(example), "answer": words[:200], "learned": learned_text[position : position + 200]},
                )
            between = tokenizer(learned_text[position:at], add_special_tokens=False)["input_ids"] if at > position else []
            if at >= 0 and any(token not in tokenizer.all_special_ids for token in between if tokenizer.decode([token]).strip()):
                return Proof(
                    held=False,
                    claim="more than the answer is learned",
                    evidence={**row_of(example), "also": learned_text[position:at][:200]},
                )
            position = max(position, at + len(words))
        rest = learned_text[position:]
        for mark in tokenizer.all_special_tokens:
            rest = rest.replace(mark, "")
        if rest.strip() and not example.facts.get("cut", 0):
            return Proof(held=False, claim="more than the answer is learned", evidence={**row_of(example), "also": rest[:200]})
    return Proof(held=True, claim="the answers are learned, the prompts are not", evidence={"rows": min(200, len(context.read))})


def the_end_is_learned(context: ProofContext) -> Proof:
    """The last learned token of a whole answer is the one at which generation stops."""
    end = int(context.tokenizer.eos_token_id)
    whole = [example for example in context.read if not example.facts.get("cut", 0) and any(example.target)]
    for example in whole:
        last = max(position for position, learned in enumerate(example.target) if learned)
        if example.tokens[last] != end:
            return Proof(held=False, claim="an answer ends without the token that stops generation: the model would never stop",
                         evidence={**row_of(example), "ends_with": example.tokens[last], "stops_at": end})  # fmt: skip
    return Proof(
        held=True,
        claim="each answer ends with the token that stops generation, and it is learned",
        evidence={"token": end, "rows": len(whole)},
    )


def control_tokens_stand_once(context: ProofContext) -> Proof:
    """One beginning, and as many control tokens as the template puts there for so many turns."""
    tokenizer = context.tokenizer
    special = set(tokenizer.all_special_ids)
    expected: dict[tuple[str, ...], int] = {}
    for example in context.read:
        if example.tokens[0] in special and example.tokens[:2] == [example.tokens[0]] * 2:
            return Proof(
                held=False,
                claim="the beginning token stands there twice",
                evidence={**row_of(example), "tokens": example.tokens[:4]},
            )
        if example.facts.get("cut", 0):
            continue
        count = sum(token in special for token in example.tokens)
        roles = tuple(message["role"] for message in example.facts["messages"])
        if roles not in expected:
            plain = [{"role": role, "content": "word"} for role in roles]
            expected[roles] = sum(token in special for token in prompt(tokenizer, plain[:-1])[0]) + 1
        if count != expected[roles]:
            return Proof(held=False, claim=f"{count} control tokens where the template puts {expected[roles]}: was a template applied before?",
                         evidence={**row_of(example), "found": count, "expected": expected[roles]})  # fmt: skip
    return Proof(
        held=True,
        claim="control tokens stand where the template puts them, and the beginning stands once",
        evidence={"rows": len(context.read)},
    )


def starts_where_it_must(context: ProofContext) -> Proof:
    """A language model knows more than nothing, and about this place: the same targets, moved by one, are less likely."""
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    vocabulary = math.log(len(context.tokenizer))
    shifted = float(np.mean([_shifted_loss(context, example) for example in context.rows[:2]]))
    own = score(context.model, context.objective, context.rows[:2])
    here = float(own.loss.sum() / own.count.sum())
    knows = began < 0.9 * vocabulary  # a base with random weights knows nothing, and nothing can be told from it
    holds = here < shifted if knows else began < vocabulary + 2
    return Proof(held=holds, claim=f"the loss begins at {began:.3f} nats a token (knowing nothing: {vocabulary:.3f}; the targets moved by one: {shifted:.3f})",
                 evidence={"loss": began, "knowing_nothing": vocabulary, "moved_by_one": shifted})  # fmt: skip


def _shifted_loss(context: ProofContext, example: Example) -> float:
    """The loss when each learned token is asked for one place too late."""
    from luthier.models.modes import eval_mode

    late = replace(example, inputs={"tokens": [example.tokens[0], *example.tokens[:-1]]})
    batch = context.batch([example])
    moved_by_one = replace(batch, flat={**batch.flat, "next": context.batch([late]).flat["next"]})
    model: Any = context.model
    with eval_mode(model):
        scores = context.objective.score(model, moved_by_one)
    return float(scores.loss.sum() / max(float(scores.count.sum()), 1.0))


def padding_changes_nothing(context: ProofContext) -> Proof:
    """Generation pads on the left: what is said next must not depend on it; in fp32, for bf16 alone moves the scores of some bases by a tenth."""
    example = min(context.rows, key=lambda each: len(each.tokens))
    import torch

    from luthier.models.precision import in_fp32

    model: Any = context.model
    device = next(model.parameters()).device
    end = int(context.tokenizer.eos_token_id)
    size, gap = len(example.tokens), 7
    row = torch.tensor(example.tokens, device=device)
    padding = torch.full((gap,), end, device=device)
    ones, gone = torch.ones(size, dtype=torch.long, device=device), torch.zeros(gap, dtype=torch.long, device=device)
    scores = []
    with in_fp32(model.network), model.for_generation() as network:
        for tokens, mask in ((torch.cat([padding, row]), torch.cat([gone, ones])), (torch.cat([row, padding]), torch.cat([ones, gone]))):
            positions = (mask.cumsum(0) - 1).clamp(min=0)
            logits = network(input_ids=tokens[None], attention_mask=mask[None], position_ids=positions[None]).logits[0]
            scores.append(logits[mask.bool()][-1].float())
    apart = float((scores[0] - scores[1]).abs().max() / scores[1].abs().max())
    return Proof(
        held=apart <= CLOSE_FP32,
        claim=f"padded on the left and on the right, the next token's scores differ by {apart:.1e}",
        evidence={"relative_difference": apart, **row_of(example)},
    )
