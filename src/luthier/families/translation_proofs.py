"""Proofs for translation: the encoder is told nothing of the target, each word is learned behind those before it, the end is learned and padding is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import HELD_OUT, Batch, Example, Stream

TARGET, BEGIN = "target", -1
READ = 200
"""Rows that are looked at."""


def _sides(context: ProofContext, examples: list[Example]) -> list[tuple[list[int], list[int], list[int]]]:
    """What a batch shows the encoder and the decoder of each row, and what the decoder is to say."""
    batch = context.objective.collate(examples, 1, HELD_OUT)
    stream = batch.streams[TARGET]
    sources = np.split(batch.flat["tokens"].numpy(), np.cumsum(batch.lengths.numpy())[:-1])
    ends = np.cumsum(stream.lengths.numpy())[:-1]
    decoder_inputs, spoken = (np.split(stream.values[name].numpy(), ends) for name in ("shown", "next"))
    return [(one.tolist(), two.tolist(), three.tolist()) for one, two, three in zip(sources, decoder_inputs, spoken, strict=True)]


def the_target_is_hidden_from_the_encoder(context: ProofContext) -> Proof:
    """What the encoder reads of a row is the same whatever its target is."""
    examples = [example for example in context.read[:READ] if example.units]
    objective: Any = context.objective
    others = [*examples[1:], *examples[:1]]
    records = [
        replace(one.record, values={**one.record.values, objective.target: two.record.values.get(objective.target)})
        for one, two in zip(examples, others, strict=True)
    ]
    swapped = [replace(new, index=old.index) for new, old in zip(objective.prepare(records), examples, strict=True)]
    for example, own, other in zip(examples, _sides(context, examples), _sides(context, swapped), strict=True):
        if own[0] != other[0] or list(example.tokens) != own[0]:
            return Proof(
                held=False, claim="what the encoder reads of a row changes with its target: the answer is given away",
                evidence={**row_of(example), "read": own[0][:32], "with_another_target": other[0][:32]},
            )  # fmt: skip
    return Proof(held=True, claim="the encoder reads the source alone", evidence={"rows": len(examples)})


def each_word_is_learned_behind_those_before_it(context: ProofContext) -> Proof:
    """Teacher forcing: to say a token the decoder reads those before it, and not the token itself."""
    examples = [example for example in context.read[:READ] if example.units]
    for example, (_, decoder_input, spoken) in zip(examples, _sides(context, examples), strict=True):
        if decoder_input[:1] != [BEGIN] or decoder_input[1:] != spoken[:-1]:
            early = decoder_input == spoken
            what = (
                "the decoder reads the very token that it is to say"
                if early
                else "the decoder reads other tokens than those before the one that it is to say"
            )
            return Proof(held=False, claim=f"teacher forcing is shifted wrongly: {what}", evidence={**row_of(example), "read": decoder_input[:8], "to_say": spoken[:8]})  # fmt: skip
        if spoken != list(example.target):
            return Proof(held=False, claim="other tokens are learned than those of the target", evidence={**row_of(example), "learned": spoken[:8], "target": list(example.target)[:8]})  # fmt: skip
    return Proof(held=True, claim="each token is learned behind those before it", evidence={"rows": len(examples)})


def the_end_is_learned_and_padding_is_not(context: ProofContext) -> Proof:
    """The last token of a whole target is the one at which writing stops, and nothing behind it is learned."""
    objective, tokenizer = context.objective, context.tokenizer
    end, pad = int(tokenizer.eos_token_id), tokenizer.pad_token_id
    examples = [example for example in context.read[:READ] if example.units]
    for example, (_, _, spoken) in zip(examples, _sides(context, examples), strict=True):
        learned = [token for token in spoken if token >= 0]
        if len(learned) != int(example.units) or (pad is not None and pad != end and pad in learned) or end in learned[:-1]:
            return Proof(held=False, claim=f"padding is learned: {len(learned)} tokens count for a target of {int(example.units)}", evidence={**row_of(example), "learned": learned[-8:]})  # fmt: skip
        if learned[-1] != end and not example.facts.get("cut", 0):
            return Proof(held=False, claim="the end of the target is not learned: a translation would not stop", evidence={**row_of(example), "learned": learned[-8:]})  # fmt: skip
    counted = sum(int(example.units) for example in examples)
    return Proof(held=True, claim=f"the end of every {getattr(objective, 'learned', 'target')} is learned, and nothing behind it", evidence={"rows": len(examples), "tokens": counted})  # fmt: skip


def no_word_sees_those_behind_it(context: ProofContext) -> Proof:
    """The decoder's state at each token is the same whatever comes behind it, and whatever the rows beside it are."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    rows = context.rows[:2]
    batch = context.batch(rows)
    stream = batch.streams[TARGET]
    changed = stream.values["shown"].clone()
    last = stream.lengths.cumsum(0) - 1
    some = stream.lengths > 1  # a row of one token begins with what is not to be changed
    changed[last[some]] = (changed[last[some]] + 1) % int(model.output()[0].shape[0])
    other = Batch(batch.index, batch.lengths, batch.flat, batch.each, {TARGET: Stream(stream.lengths, {**stream.values, "shown": changed})})
    with eval_mode(model), torch.no_grad():
        one, two = (model.hidden_states(each).float() for each in (batch, other))
    early = torch.ones(len(one), dtype=torch.bool, device=one.device)
    early[last] = False
    apart = float((one - two)[early].abs().max()) if bool(early.any()) else 0.0
    late = float((one - two)[last[some]].abs().max()) if bool(some.any()) else 1.0
    holds = apart <= 1e-5 * max(1.0, float(one.abs().max())) and late > 0
    claim = "no token sees those behind it" if holds else "a token's state changes with a token behind it: what is to be said is seen"
    return Proof(held=holds, claim=claim, evidence={"at_earlier_tokens": apart, "at_the_changed_one": late, **row_of(rows[0])})


def padding_changes_nothing(context: ProofContext) -> Proof:
    """Our losses of rows laid end to end are those of transformers' own forward pass over the same rows padded, where padding is not counted."""
    import torch

    from luthier.evaluation.score import score

    model: Any = context.model
    rows = context.rows
    ours = float(score(model, context.objective, rows, answers=0).loss.sum())
    device = next(model.parameters()).device
    pad = int(model.network.config.pad_token_id or 0)

    def pad_texts(texts: list[list[int]], filler: int) -> Any:
        longest = max(len(text) for text in texts)
        return torch.tensor([[*text, *[filler] * (longest - len(text))] for text in texts], device=device)

    sources, targets = [list(row.tokens) for row in rows], [list(row.target) for row in rows]
    mask = pad_texts([[1] * len(source) for source in sources], 0)
    spoken = pad_texts(targets, -100)
    decoder_input = pad_texts([[model.start, *target[:-1]] for target in targets], pad)
    with model.for_generation() as network:
        logits = network(input_ids=pad_texts(sources, pad), attention_mask=mask, decoder_input_ids=decoder_input, use_cache=False).logits
        theirs = float(
            torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), spoken.flatten(), ignore_index=-100, reduction="sum")
        )
    apart = abs(ours - theirs) / max(abs(theirs), 1e-2)
    return Proof(held=apart <= context.close, claim=f"rows end to end lose {ours:.4f}, and padded by transformers' own forward pass {theirs:.4f}",
                 evidence={"relative_difference": apart, "allowed": context.close})  # fmt: skip
