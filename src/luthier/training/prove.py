"""The loss proves itself on the run's own rows and model, before step one."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from luthier.core.component import Component
from luthier.core.errors import LuthierError
from luthier.core.randomness import permutation
from luthier.core.types import Batch, Example, Message, Record
from luthier.data.chat import prompt
from luthier.evaluation.score import score
from luthier.models.modes import evaluating
from luthier.training.steps import Work, moved, steps

ROWS = 4
LONGEST = 96
READ = 2_000
"""Rows whose tokens are looked at; the model itself sees four short ones."""
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
TRIED = 24
"""Steps at most in which a few rows must be learned by heart."""
LEARNED_SHARE = 0.8
"""Of the first loss; two steps in a row must lie below it."""
QUICK_RATES = {("adamw", "full"): 2e-4, ("adamw", ""): 3e-3, ("adam", "full"): 2e-4, ("adam", ""): 3e-3, ("sgd", ""): 0.05}
"""(optimizer, adaptation) → a rate at which a few rows are learned by heart; "" stands for any other adaptation."""


class Proof(Component):
    """One thing that must be so, and whether it is.

    Args:
        name: of the proof.
        held: whether it is so; None where it could not be tried.
        claim: one sentence.
        evidence: the numbers, and the row that speaks against it.
    """

    name: str
    held: bool | None
    claim: str
    evidence: dict[str, Any] = Field(default_factory=dict)


class Disproved(LuthierError):
    """The loss is not what it should be: training would teach the wrong thing."""

    exit_code = 1


@dataclass
class Question:
    """What a proof has to work with.

    Args:
        work: assembled for this purpose; it is used up.
        serve: a row → the tokens that prediction would give the model.
        rows: a few short training examples.
        until: when the time is up, on `time.monotonic`.
    """

    work: Work
    serve: Callable[[Record], list[int]]
    rows: list[Example]
    until: float

    @property
    def chat(self) -> bool:
        """Whether text is learned, rather than a class."""
        return bool(self.work.train) and isinstance(self.work.train[0].target, list)

    @property
    def close(self) -> float:
        """How near two ways of computing the same must be."""
        return CLOSE[next(self.work.model.parameters()).dtype]

    @property
    def read(self) -> list[Example]:
        """The examples whose tokens are looked at."""
        train = self.work.train
        return [train[row] for row in sorted(permutation(len(train), "proofs")[:READ].tolist())]

    def batch(self, rows: Sequence[Example]) -> Batch:
        """The rows as a step would see them, on the model's device."""
        work = self.work
        return moved(work.objective.collate(rows, work.experiment.seed, 0), next(work.model.parameters()).device)


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


def _row(example: Example) -> dict[str, Any]:
    return {"file": example.record.source, "line": example.record.row}


# what the tokens are


def something_is_learned(question: Question) -> Proof:
    """Rows have something to learn; it is counted."""
    if not question.chat:
        train = question.work.train
        none = [example for example in train if example.target < 0]
        return Proof(name="", held=not none, claim=f"{len(train):,} rows have a class each" if not none else f"{len(none):,} rows have no class",
                     evidence={"rows": len(train), **(_row(none[0]) if none else {})})  # fmt: skip
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
    return Proof(name="", held=len(silent) <= 0.1 * len(train), evidence=evidence | (_row(silent[0]) if silent else {}),
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
            return Proof(name="", held=False, claim=f"prediction would give the model other tokens than training did, from token {place} on",
                         evidence={**_row(example), "trained": asked[place : place + 8], "served": served[place : place + 8]})  # fmt: skip
    return Proof(
        name="",
        held=True,
        claim="the tokens trained on are those that predict and chat give the model",
        evidence={"rows": min(200, len(question.read))},
    )


def the_answer_is_learned_and_nothing_else(question: Question) -> Proof | None:
    """The learned tokens spell the assistant's words, and no others."""
    if not question.chat:
        return None
    tokenizer = question.work.objective.tokenizer  # type: ignore[attr-defined]
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
                    name="",
                    held=False,
                    claim="an answer is not among what is learned",
                    evidence={**_row(example), "answer": words[:200], "learned": said[place : place + 200]},
                )
            between = tokenizer(said[place:at], add_special_tokens=False)["input_ids"] if at > place else []
            if at >= 0 and any(token not in tokenizer.all_special_ids for token in between if tokenizer.decode([token]).strip()):
                return Proof(
                    name="", held=False, claim="more than the answer is learned", evidence={**_row(example), "also": said[place:at][:200]}
                )
            place = max(place, at + len(words))
        rest = said[place:]
        for mark in tokenizer.all_special_tokens:
            rest = rest.replace(mark, "")
        if rest.strip() and not example.facts.get("cut", 0):
            return Proof(name="", held=False, claim="more than the answer is learned", evidence={**_row(example), "also": rest[:200]})
    return Proof(name="", held=True, claim="the answers are learned, the prompts are not", evidence={"rows": min(200, len(question.read))})


def the_end_is_learned(question: Question) -> Proof | None:
    """The last learned token of a whole answer is the one at which generation stops."""
    if not question.chat:
        return None
    end = int(question.work.objective.tokenizer.eos_token_id)  # type: ignore[attr-defined]
    whole = [example for example in question.read if not example.facts.get("cut", 0) and any(example.target)]
    for example in whole:
        last = max(place for place, learned in enumerate(example.target) if learned)
        if example.tokens[last] != end:
            return Proof(name="", held=False, claim="an answer ends without the token that stops generation: the model would never stop",
                         evidence={**_row(example), "ends_with": example.tokens[last], "stops_at": end})  # fmt: skip
    return Proof(
        name="",
        held=True,
        claim="each answer ends with the token that stops generation, and it is learned",
        evidence={"token": end, "rows": len(whole)},
    )


def control_tokens_stand_once(question: Question) -> Proof:
    """One beginning, and as many control tokens as the template puts there for so many turns."""
    tokenizer = question.work.objective.tokenizer  # type: ignore[attr-defined]
    special = set(tokenizer.all_special_ids)
    expected: dict[tuple[str, ...], int] = {}
    for example in question.read:
        if example.tokens[0] in special and example.tokens[:2] == [example.tokens[0]] * 2:
            return Proof(
                name="",
                held=False,
                claim="the beginning token stands there twice",
                evidence={**_row(example), "tokens": example.tokens[:4]},
            )
        if not question.chat or example.facts.get("cut", 0):
            continue
        count = sum(token in special for token in example.tokens)
        roles = tuple(message["role"] for message in example.facts["messages"])
        if roles not in expected:
            plain = [{"role": role, "content": "word"} for role in roles]
            expected[roles] = sum(token in special for token in prompt(tokenizer, plain[:-1])[0]) + 1
        if count != expected[roles]:
            return Proof(name="", held=False, claim=f"{count} control tokens where the template puts {expected[roles]}: was a template applied before?",
                         evidence={**_row(example), "found": count, "expected": expected[roles]})  # fmt: skip
    return Proof(
        name="",
        held=True,
        claim="control tokens stand where the template puts them, and the beginning stands once",
        evidence={"rows": len(question.read)},
    )


# what the loss is


def packed_is_alone(question: Question) -> Proof:
    """A row's loss does not depend on the rows beside it, nor on our way of computing it: transformers' own says the same."""
    rows, work = question.rows, question.work
    together = score(work.model, work.objective, rows)
    alone = [float(score(work.model, work.objective, [example]).loss[0]) for example in rows]
    off = np.abs(together.loss - alone) / np.maximum(np.abs(alone), 1e-2)
    worst = int(off.argmax())
    evidence = {"largest_relative_difference": float(off.max()), "allowed": question.close}
    if not float(off.max()) <= question.close:
        return Proof(
            name="",
            held=False,
            claim=f"a row's loss changes from {alone[worst]:.5f} to {together.loss[worst]:.5f} when others stand beside it",
            evidence=evidence | _row(rows[worst]),
        )
    if question.chat:
        for number, example in enumerate(rows[:3]):
            expected = _plain_loss(question, example)
            apart = abs(expected - float(together.loss[number])) / max(abs(expected), 1e-2)
            evidence["largest_relative_difference"] = max(evidence["largest_relative_difference"], apart)
            if not apart <= question.close:
                return Proof(
                    name="",
                    held=False,
                    claim=f"the loss of a row is {together.loss[number]:.5f}, and {expected:.5f} by transformers' own forward pass",
                    evidence=evidence | _row(example),
                )
    return Proof(
        name="",
        held=True,
        claim="a row's loss is the same packed, alone" + (" and by transformers' own forward pass" if question.chat else ""),
        evidence=evidence,
    )


def _plain_loss(question: Question, example: Example) -> float:
    """The loss summed over an example's learned tokens, from the definition: token t is foretold from those before it."""
    device = next(question.work.model.parameters()).device
    tokens = torch.tensor([example.tokens], device=device)
    with question.work.model.generating() as network:
        said = network(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
    own = -said.gather(1, tokens[0, 1:, None])[:, 0]
    return float(own[torch.tensor(example.target[1:], device=device)].sum())


def accumulated_is_whole(question: Question) -> Proof | None:
    """Gradients of a step are the same in one piece and in several."""
    work = question.work
    if not work.objective.splits:
        return None
    whole, pieces = _gradient(question, [question.batch(question.rows)]), None
    batch = question.batch(question.rows)
    pieces = _gradient(question, batch.split(max(len(example.tokens) for example in question.rows)))
    apart = float((whole - pieces).norm() / whole.norm().clamp(min=1e-12))
    return Proof(name="", held=apart <= question.close, claim=f"the gradient of {len(question.rows)} rows in one piece and in several differs by {apart:.1e}",
                 evidence={"relative_difference": apart, "allowed": question.close})  # fmt: skip


def _gradient(question: Question, parts: Sequence[Batch]) -> Tensor:
    """What the step's parts add up to, divided once, as the loop does it."""
    work = question.work
    parameters = [parameter for parameter in work.model.network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    count = 0.0
    with evaluating(work.model):  # dropout aside
        for part in parts:
            loss = work.objective.loss(work.model, part)
            loss.total.backward()
            count += loss.count
    flat = torch.cat([parameter.grad.float().flatten() for parameter in parameters if parameter.grad is not None]) / count
    for parameter in parameters:
        parameter.grad = None
    return flat


def a_row_moves_only_itself(question: Question) -> Proof:
    """The loss of one row has no gradient at any token of its neighbours."""
    work, rows = question.work, question.rows[:3]
    batch = question.batch(rows)
    kept: list[Tensor] = []
    embedding = work.model.network.get_input_embeddings()

    def keep(module: Any, given: Any, made: Tensor) -> Tensor:
        made = made.detach().requires_grad_()
        kept.append(made)
        return made

    handle = embedding.register_forward_hook(keep)
    own = slice(int(batch.lengths[0]), int(batch.lengths[:2].sum()))  # the second: it has a neighbour on either side
    try:
        with evaluating(work.model):
            work.model.hidden(batch)[own].float().square().sum().backward()
    finally:
        handle.remove()
        for parameter in work.model.network.parameters():
            parameter.grad = None
    if kept[0].grad is None:
        return Proof(
            name="", held=False, claim="no gradient reaches the tokens: nothing below the head could learn", evidence=_row(rows[1])
        )
    size = kept[0].grad.abs().reshape(-1, kept[0].shape[-1]).amax(1)
    at_own = float(size[own].max())
    size[own] = 0
    at_others = float(size.max())
    held = at_own > 0 and at_others == 0
    return Proof(name="", held=held, claim="the gradient of one row touches that row alone" if held else "the gradient of one row reaches the rows beside it: packed rows see each other",
                 evidence={"at_its_own_tokens": at_own, "at_others": at_others, **_row(rows[1])})  # fmt: skip


def padding_changes_nothing(question: Question) -> Proof | None:
    """Generation pads on the left: what is said next must not depend on it."""
    if not question.chat:
        return None
    example = min(question.rows, key=lambda each: len(each.tokens))
    device = next(question.work.model.parameters()).device
    end = int(question.work.objective.tokenizer.eos_token_id)  # type: ignore[attr-defined]
    size, gap = len(example.tokens), 7
    row = torch.tensor(example.tokens, device=device)
    padding = torch.full((gap,), end, device=device)
    seen, gone = torch.ones(size, dtype=torch.long, device=device), torch.zeros(gap, dtype=torch.long, device=device)
    said = []
    with question.work.model.generating() as network:
        for tokens, mask in ((torch.cat([padding, row]), torch.cat([gone, seen])), (torch.cat([row, padding]), torch.cat([seen, gone]))):
            places = (mask.cumsum(0) - 1).clamp(min=0)
            logits = network(input_ids=tokens[None], attention_mask=mask[None], position_ids=places[None]).logits[0]
            said.append(logits[mask.bool()][-1].float())
    apart = float((said[0] - said[1]).abs().max() / said[1].abs().max())
    return Proof(
        name="",
        held=apart <= question.close,
        claim=f"padded on the left and on the right, the next token's scores differ by {apart:.1e}",
        evidence={"relative_difference": apart, **_row(example)},
    )


def judged_as_trained(question: Question) -> Proof:
    """Evaluation counts the same tokens, in the same way, as training."""
    work, rows = question.work, question.rows
    with evaluating(work.model), torch.no_grad():
        loss = work.objective.loss(work.model, question.batch(rows))
    scores = score(work.model, work.objective, rows)
    plain = _unweighted(work)
    trained, judged = float(loss.total), float(scores.loss.sum())
    apart = abs(trained - judged) / max(abs(judged), 1e-2)
    same = float(loss.count) == float(scores.count.sum()) if plain else True
    held = same and (apart <= question.close or not plain)
    return Proof(name="", held=held, claim=f"training and evaluation count {loss.count:g} and {scores.count.sum():g} learned units, with losses of {trained:.4f} and {judged:.4f}",
                 evidence={"relative_difference": apart, "weights_or_smoothing": not plain})  # fmt: skip


def _unweighted(work: Work) -> bool:
    spec: Any = work.experiment.objective
    return not getattr(spec, "label_smoothing", 0.0) and getattr(spec, "class_weights", None) in (None, "none")


def starts_where_it_must(question: Question) -> Proof | None:
    """A new head knows nothing: its loss is the logarithm of the number of classes. A language model knows more than nothing, and about this place."""
    work = question.work
    scores = score(work.model, work.objective, question.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    if not question.chat:
        classes = len(getattr(work.experiment.objective, "labels", ()))
        expected = math.log(classes)
        return Proof(
            name="",
            held=began <= expected + max(0.5, 0.25 * expected),
            claim=f"the loss begins at {began:.3f}; a head that knows nothing has {expected:.3f}",
            evidence={"loss": began, "expected": expected},
        )
    vocabulary = math.log(len(work.objective.tokenizer))  # type: ignore[attr-defined]
    shifted = float(np.mean([_shifted_loss(question, example) for example in question.rows[:2]]))
    own = score(work.model, work.objective, question.rows[:2])
    here = float(own.loss.sum() / own.count.sum())
    knows = began < 0.9 * vocabulary  # a base with random weights knows nothing, and nothing can be told from it
    held = here < shifted if knows else began < vocabulary + 2
    return Proof(name="", held=held, claim=f"the loss begins at {began:.3f} nats a token (knowing nothing: {vocabulary:.3f}; the targets moved by one: {shifted:.3f})",
                 evidence={"loss": began, "knowing_nothing": vocabulary, "moved_by_one": shifted})  # fmt: skip


def _shifted_loss(question: Question, example: Example) -> float:
    """The loss when each learned token is asked for one place too late."""
    late = replace(example, tokens=[example.tokens[0], *example.tokens[:-1]])
    wrong = replace(example, facts=example.facts)
    batch = question.batch([wrong])
    following = question.batch([late]).flat["next"]
    moved_by_one = replace(batch, flat={**batch.flat, "next": following})
    with evaluating(question.work.model):
        scores = question.work.objective.score(question.work.model, moved_by_one)
    return float(scores.loss.sum() / max(float(scores.count.sum()), 1.0))


def a_few_rows_can_be_learned(question: Question) -> Proof:
    """A few rows, shown again and again without dropout, are learned by heart."""
    work = question.work
    rows = sorted(question.rows, key=lambda example: len(example.tokens))[: 2 if question.chat else 4]
    if not question.chat:
        rows = _different(question.rows)[:4]
    kind = work.experiment.adaptation.kind  # type: ignore[attr-defined]
    rate = QUICK_RATES.get((work.masters.spec.kind, kind), QUICK_RATES[work.masters.spec.kind, ""])
    training = work.experiment.training.model_copy(update={"batch_size": len(rows)})
    experiment = work.experiment.model_copy(update={"training": training, "schedule": _Flat(rate, work.masters.spec.lr)})
    small = replace(work, experiment=experiment, train=rows, total=TRIED)
    losses: list[float] = []
    fell = False
    with _without_dropout(work.model):
        for step in steps(small):
            losses.append(step.loss)
            fell = len(losses) > 3 and max(losses[-2:]) < LEARNED_SHARE * losses[0]
            if fell or time.monotonic() > question.until or not math.isfinite(step.loss):
                break
    timely = len(losses) == TRIED or fell or not math.isfinite(losses[-1])
    return Proof(name="", held=fell if timely else None, evidence={"steps": len(losses), "first": losses[0], "last": losses[-1], "rate": rate},
                 claim=f"{len(rows)} rows shown {len(losses)} times: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}" + ("" if timely else "; the time was up"))  # fmt: skip


def _different(rows: Sequence[Example]) -> list[Example]:
    """Rows of different texts, so that they can be told apart."""
    return list({tuple(example.tokens): example for example in rows}.values())


@contextlib.contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """All dropout probabilities at zero for the time of the context."""
    kept, packed = [(module, module.p) for module in model.modules() if hasattr(module, "p")], model.dropout
    model.dropout = 0.0
    for module, _ in kept:
        module.p = 0.0
    try:
        yield
    finally:
        model.dropout = packed
        for module, probability in kept:
            module.p = probability


@dataclass(frozen=True)
class _Flat:
    """A schedule that holds the rate at which a few rows are learned quickly, whatever the run's own is: not the rate is tried here."""

    rate: float
    own: float
    warmup: float = 0.1

    def factor(self, share: float) -> float:
        """What the run's own rate is multiplied by."""
        return self.rate / self.own * min(1.0, share / self.warmup)


TOKEN_PROOFS = (
    something_is_learned,
    trained_is_served,
    the_answer_is_learned_and_nothing_else,
    the_end_is_learned,
    control_tokens_stand_once,
)
PROOFS: tuple[Callable[[Question], Proof | None], ...] = (
    *TOKEN_PROOFS,
    packed_is_alone,
    a_row_moves_only_itself,
    judged_as_trained,
    starts_where_it_must,
    padding_changes_nothing,
    accumulated_is_whole,
    a_few_rows_can_be_learned,
)
"""In this order: those that only read tokens first, the dearest last."""


def disproved(proofs: Sequence[Proof]) -> Iterator[Proof]:
    """Those that failed."""
    return (proof for proof in proofs if proof.held is False)
