"""What the tokens are: proofs that only read them."""

from __future__ import annotations

from luthier.core.types import Message
from luthier.data.chat import prompt
from luthier.training.proofs.question import Proof, Question, row_of


def something_is_learned(question: Question) -> Proof:
    """Rows have something to learn; it is counted."""
    if not question.chat:
        train = question.work.train
        none = [example for example in train if example.target < 0]
        return Proof(held=not none, claim=f"{len(train):,} rows have a class each" if not none else f"{len(none):,} rows have no class",
                     evidence={"rows": len(train), **(row_of(none[0]) if none else {})})  # fmt: skip
    train = question.work.train
    silent = [example for example in train if not any(example.target)]
    tokens, learned = sum(len(example.tokens) for example in train), sum(sum(example.target) for example in train)
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


def trained_is_served(question: Question) -> Proof:
    """What prediction gives the model is, token for token, the beginning of what was trained."""
    for example in question.read[:200]:
        served = question.serve(example.record)
        if example.facts.get("cut", 0):
            served = served[: len(example.tokens)]
        asked = example.tokens
        if question.chat:
            last = len(example.target) - 1
            while last >= 0 and not example.target[last]:
                last -= 1
            first = last
            while first > 0 and example.target[first - 1]:
                first -= 1
            asked = example.tokens[:first] if last >= 0 else example.tokens
        if served != asked:
            place = next(
                (number for number, (one, two) in enumerate(zip(served, asked, strict=False)) if one != two), min(len(served), len(asked))
            )
            return Proof(held=False, claim=f"prediction would give the model other tokens than training did, from token {place} on",
                         evidence={**row_of(example), "trained": asked[place : place + 8], "served": served[place : place + 8]})  # fmt: skip
    return Proof(
        held=True,
        claim="the tokens trained on are those that predict and chat give the model",
        evidence={"rows": min(200, len(question.read))},
    )


def the_answer_is_learned_and_nothing_else(question: Question) -> Proof | None:
    """The learned tokens spell the assistant's words, and no others."""
    if not question.chat:
        return None
    tokenizer = question.tokenizer
    for example in question.read[:200]:
        messages: list[Message] = example.facts["messages"]
        said = tokenizer.decode([token for token, learned in zip(example.tokens, example.target, strict=True) if learned])
        place = 0
        for message in messages:
            if message["role"] != "assistant":
                continue
            words = message["content"].strip()
            at = said.find(words, place)
            if at < 0 and not example.facts.get("cut", 0):
                return Proof(
                    held=False,
                    claim="an answer is not among what is learned",
                    evidence={**row_of(example), "answer": words[:200], "learned": said[place : place + 200]},
                )
            between = tokenizer(said[place:at], add_special_tokens=False)["input_ids"] if at > place else []
            if at >= 0 and any(token not in tokenizer.all_special_ids for token in between if tokenizer.decode([token]).strip()):
                return Proof(
                    held=False, claim="more than the answer is learned", evidence={**row_of(example), "also": said[place:at][:200]}
                )
            place = max(place, at + len(words))
        rest = said[place:]
        for mark in tokenizer.all_special_tokens:
            rest = rest.replace(mark, "")
        if rest.strip() and not example.facts.get("cut", 0):
            return Proof(held=False, claim="more than the answer is learned", evidence={**row_of(example), "also": rest[:200]})
    return Proof(held=True, claim="the answers are learned, the prompts are not", evidence={"rows": min(200, len(question.read))})


def the_end_is_learned(question: Question) -> Proof | None:
    """The last learned token of a whole answer is the one at which generation stops."""
    if not question.chat:
        return None
    end = int(question.tokenizer.eos_token_id)
    whole = [example for example in question.read if not example.facts.get("cut", 0) and any(example.target)]
    for example in whole:
        last = max(place for place, learned in enumerate(example.target) if learned)
        if example.tokens[last] != end:
            return Proof(held=False, claim="an answer ends without the token that stops generation: the model would never stop",
                         evidence={**row_of(example), "ends_with": example.tokens[last], "stops_at": end})  # fmt: skip
    return Proof(
        held=True,
        claim="each answer ends with the token that stops generation, and it is learned",
        evidence={"token": end, "rows": len(whole)},
    )


def control_tokens_stand_once(question: Question) -> Proof:
    """One beginning, and as many control tokens as the template puts there for so many turns."""
    tokenizer = question.tokenizer
    special = set(tokenizer.all_special_ids)
    expected: dict[tuple[str, ...], int] = {}
    for example in question.read:
        if example.tokens[0] in special and example.tokens[:2] == [example.tokens[0]] * 2:
            return Proof(
                held=False,
                claim="the beginning token stands there twice",
                evidence={**row_of(example), "tokens": example.tokens[:4]},
            )
        if not question.chat or example.facts.get("cut", 0):
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
        evidence={"rows": len(question.read)},
    )
