"""Unpaired preference: good answers become likelier than they were, bad ones less likely; each answer stands alone, with a label.

Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equation 8; D'Oosterlinck et al. 2024, "Anchored Preference
Optimization and Contrastive Revisions", APO-zero, the form for single answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.cache import Cache
from luthier.core.component import Component
from luthier.core.types import HELD_OUT, Batch, Example, Loss, Message, Record, Scores, Stream
from luthier.core.words import plural
from luthier.data.chat import prompt, render
from luthier.data.judged_answers import JudgedAnswer, conversation_with, parse_judged_answer
from luthier.data.near_duplicates import normalise
from luthier.objectives.answers import AnswersTurns
from luthier.objectives.reference import Reference, complete, count_learned, lay_end_to_end, log_probabilities, make_key, sum_by_answer

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("bad", "good")
"""The two classes, in the order of their numbers."""
MISMATCHED = "mismatched"
"""The name of the stream of the answers that belong to other prompts."""
RATIO = (1.0, 4 / 3)
"""Between these should lie what all good answers weigh together, divided by what all bad ones weigh (KTO, section 4.2)."""


def class_weights(good: int, bad: int) -> tuple[float, float]:
    """The weights of a good and of a bad answer that change as little as possible and bring the ratio of the two classes into `RATIO`.

    Args:
        good: answers, 1 or more.
        bad: answers, 1 or more.

    >>> class_weights(100, 90), class_weights(50, 100), class_weights(200, 100)
    ((1.0, 1.0), (2.0, 1.0), (1.0, 1.5))
    """
    ratio, (low, high) = good / bad, RATIO
    return (round(low / ratio, 4) if ratio < low else 1.0), (round(ratio / high, 4) if ratio > high else 1.0)


class UnpairedPreference(Component):
    """Learn from single answers that were called good or bad."""

    kind: Literal["unpaired_preference"] = "unpaired_preference"
    loss: Literal["kto", "apo_zero"] = Field(
        default="kto",
        description="kto: what an answer gained is compared with what answers to other prompts gained (TRL: loss_type=kto, LLaMA-Factory: stage=kto); apo_zero: with nothing (TRL: apo_zero_unpaired), which needs no second answer a row and may be split into micro-batches.",
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        description="How strongly leaving the reference is held back (TRL: beta, LLaMA-Factory: pref_beta); small values let the model move far.",
    )
    desirable_weight: float | None = Field(
        default=None,
        gt=0,
        description="What a good answer counts (TRL: desirable_weight, LLaMA-Factory: kto_chosen_weight). Unset: where bad answers are more, so much that both kinds weigh the same.",
    )
    undesirable_weight: float | None = Field(
        default=None,
        gt=0,
        description="What a bad answer counts (TRL: undesirable_weight, LLaMA-Factory: kto_rejected_weight). Unset: where good answers are more than 4/3 of the bad ones, so much that they weigh 4/3.",
    )
    max_length: int = Field(
        default=1024,
        ge=16,
        description="Tokens that prompt and answer may have (TRL: max_length, LLaMA-Factory: cutoff_len); longer ones lose their end, counted.",
    )

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> UnpairedObjective:
        """The objective at work.

        Args:
            tokenizer: the base's, with its chat template.
            input: the columns of the prompt and, last, that of the answer; or the one of a conversation that ends with the answer.
            target: the column of the label.
        """
        return UnpairedObjective(self, tokenizer, input, target)

    @property
    def weights(self) -> tuple[float, float]:
        """What a bad and what a good answer counts."""
        return self.undesirable_weight or 1.0, self.desirable_weight or 1.0

    @property
    def compares(self) -> bool:
        """Whether mismatched answers are asked about."""
        return self.loss == "kto"

    def at_start(self, good: bool) -> float:
        """The loss of an answer while the model still is the reference."""
        return 0.5 * self.weights[good]

    def losses(self, gained: Tensor, good: Tensor, zero: Tensor) -> Tensor:
        """The loss of each answer.

        Args:
            gained: log-probability of the answer less the same under the reference, # (answers,)
            good: whether it was good, # (answers,), bool
            zero: what `gained` is compared with, # () or (answers,)
        """
        import torch

        margin = self.beta * (gained - zero)
        weights = torch.tensor(self.weights, dtype=gained.dtype, device=gained.device)[good.long()]
        return weights * (1 - torch.sigmoid(torch.where(good, margin, -margin)))

    def losses_of(self, probability: np.ndarray, good: np.ndarray) -> np.ndarray:
        """The loss of answers that somebody calls good with these probabilities, # (answers,), bool (answers,) → (answers,)"""
        return np.array(self.weights)[good.astype(int)] * (1 - np.where(good, probability, 1 - probability))


class UnpairedObjective(AnswersTurns):
    """See `UnpairedPreference`."""

    unit = "answer"
    metrics: tuple[str, ...] = ("auc", "accuracy", "loss")

    def __init__(self, spec: UnpairedPreference, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.reference_scores = Reference()
        self.splits = not spec.compares

    # rows

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Each row's prompt with its answer and, beside it, the same prompt with the answer of the next row that has another prompt."""
        rows = [parse_judged_answer(record.values, self.input, self.target or "") for record in records]
        others = find_mismatched(rows) if self.spec.compares else [None] * len(rows)
        made = []
        for position, (record, row, other) in enumerate(zip(records, rows, others, strict=True)):
            own = self.encode(position, record, row.messages)
            more: dict[str, Any] = {}
            if other is not None:
                beside = self.encode(position, record, conversation_with(row.prompt, rows[other].answer))
                more = {MISMATCHED: beside, "answer_of": records[other]}
            made.append(replace(own, target=int(row.good), stratum=int(row.good), facts={**own.facts, **more}))
        return made

    def encode(self, position: int, record: Record, messages: list[Message]) -> Example:
        """A conversation whose last answer is what counts.

        Args:
            position: of the row.
            record: the row.
            messages: its prompt, and an answer.
        """
        asked, whole = prompt(self.tokenizer, messages[:-1])[0], render(self.tokenizer, messages).tokens
        tokens = whole[: self.spec.max_length]
        learned = [place >= len(asked) for place in range(len(tokens))]
        facts = {
            "messages": messages,
            "prompt": asked[: self.spec.max_length],
            "cut": len(whole) - len(tokens),
            "learned": learned,
            "lengths": (sum(learned),),
            "key": make_key(tokens, range(len(tokens)), learned),
        }
        return Example(position, {"tokens": tokens}, None, record, len(tokens), float(any(learned)), facts=facts)

    def learned_tokens(self, example: Example) -> list[bool]:
        """The answer's."""
        return list(example.facts["learned"])

    def describe_learned(self, example: Example) -> str:
        """Which way the answer has to go."""
        if not example.units:
            return f"nothing: within {plural(self.spec.max_length, 'token')} the answer does not begin"
        return f"that this answer ({plural(count_learned(example), 'token')}) becomes {'likelier' if example.target else 'less likely'} than it was"

    def prompt_tokens(self, example: Example) -> list[int]:
        """The prompt's."""
        return example.facts["prompt"]

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens of the prompt, and of the answer."""
        return len(example.facts["prompt"]), count_learned(example)

    def reference(self, example: Example) -> str:
        """The row's answer; where it was a bad one, it says so."""
        return ("" if example.target else "(a bad answer) ") + super().reference(example)

    def rows_to_answer(self, examples: Sequence[Example], most: int) -> list[int]:
        """Rows whose own answer is good: it is the reference."""
        good = [row for row, example in enumerate(examples) if example.target]
        return [good[place] for place in super().rows_to_answer([examples[row] for row in good], most)]

    # steps

    def begin(self, model: Any, examples: Sequence[Example], cache: Cache) -> None:
        """What the model says of all answers before step one: the reference."""
        others = [example.facts[MISMATCHED] for example in examples if MISMATCHED in example.facts]
        self.reference_scores.take(_Alone(self), model, [*examples, *others], cache)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The rows' own answers end to end, and their mismatched ones in a stream beside them; a row without one has none there."""
        import torch

        others = [example.facts.get(MISMATCHED) for example in examples]
        there = [other for other in others if other is not None and other.units]
        lengths = torch.tensor([other.size if other is not None and other.units else 0 for other in others])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat=self.lay(examples),
            each={
                "taught": torch.tensor([example.units for example in examples]),
                "good": torch.tensor([bool(example.target) for example in examples]),
                "tokens": torch.tensor([count_learned(example) for example in examples]),
                "mismatched_tokens": torch.tensor([count_learned(other) if other is not None else 0 for other in others]),
            },
            streams={MISMATCHED: Stream(lengths, self.lay(there))} if self.spec.compares else {},
        )

    def lay(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Rows end to end, as `lay_end_to_end` has them."""
        known = [self.reference_scores.of(example) for example in examples]
        return lay_end_to_end(examples, [example.facts["learned"] for example in examples], known)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss summed over the answers; their number is the count. Of a mismatched answer no gradient is taken."""
        gained = sum_by_answer(log_probabilities(model, batch, gradient=True) - complete(batch, model), batch.each["tokens"])
        zero = self.zero_of(self._score_mismatched(model, batch)[0]).to(gained.dtype)
        taught = batch.each["taught"]
        return Loss((self.spec.losses(gained, batch.each["good"], zero) * taught).sum(), float(taught.sum()))

    def zero_of(self, gained: Tensor) -> Tensor:
        """What an answer's gain is compared with: the mean gain of mismatched answers, an estimate of the KL divergence, and not below 0.

        Args:
            gained: by the mismatched answers, NaN where a row has none, # (answers,)

        Returns:
            # ()
        """
        import torch

        known = ~torch.isnan(gained)
        return gained[known].mean().clamp(min=0.0) if known.any() else torch.zeros((), dtype=gained.dtype, device=gained.device)

    def _score_mismatched(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the mismatched answers gained, and their log-probabilities, in eval mode and without a gradient; NaN where a row has none, # (answers,), (answers,)"""
        import torch

        from luthier.models.modes import eval_mode

        stream = batch.streams.get(MISMATCHED)
        gained, said = (torch.full((len(batch),), float("nan"), device=batch.index.device) for _ in range(2))
        there = torch.zeros_like(batch.index, dtype=torch.bool) if stream is None else stream.lengths > 0
        if stream is None or not there.any():
            return gained, said
        alone = Batch(batch.index[there], stream.lengths[there], stream.values, {})
        tokens = batch.each["mismatched_tokens"][there]
        with eval_mode(model), torch.no_grad():
            now = log_probabilities(model, alone)
            gained[there] = sum_by_answer(now - complete(alone, model), tokens)
            said[there] = sum_by_answer(now, tokens)
        return gained, said

    # judging

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss of each answer among the answers beside it, and what metrics and report need; `complete` compares it with all."""
        import torch

        with torch.no_grad():
            now = log_probabilities(model, batch)
            before = complete(batch, model)
            tokens, good, taught = batch.each["tokens"], batch.each["good"], batch.each["taught"].double()
            gained = sum_by_answer((now - before).double(), tokens)
            other, other_said = (values.double() for values in self._score_mismatched(model, batch))
            zero = self.zero_of(other)
            losses = self.spec.losses(gained, good, zero) * taught
        columns = {
            "gained": gained,
            "said": sum_by_answer(now.double(), tokens),
            "reference": sum_by_answer(before.double(), tokens),
            "drift": sum_by_answer((now - before).double() ** 2 / 2, tokens),
            "tokens": tokens.double(),
            "mismatched": other,
            "mismatched_said": other_said,
            "zero": zero.expand(len(batch)),
        }
        more = {name: column.cpu().numpy() for name, column in columns.items()}
        return self._make_scores(losses.cpu().numpy(), taught.cpu().numpy(), good.cpu().numpy(), more)

    def complete(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """The scores with every answer compared with the mismatched answers of all rows, not only of those beside it."""
        import torch

        assert scores.target is not None
        gained, good = torch.from_numpy(scores.more["gained"]), torch.from_numpy(scores.target == 1)
        zero = self.zero_of(torch.from_numpy(scores.more["mismatched"]))
        then, now = (self.spec.losses(gained, good, each).numpy() for each in (torch.from_numpy(scores.more["zero"]), zero))
        more = {**scores.more, "zero": np.full(len(scores.loss), float(zero))}
        return self._make_scores(scores.loss + (now - then) * scores.count, scores.count, good.numpy(), more)

    def _make_scores(self, losses: np.ndarray, counts: np.ndarray, good: np.ndarray, more: Mapping[str, np.ndarray]) -> Scores:
        """Scores with the probability that an answer is good, as the loss has it."""
        margin = self.spec.beta * (more["gained"] - more["zero"])
        probability = 1 / (1 + np.exp(-np.clip(margin, -500, 500)))
        return Scores(losses, counts, good.astype(int), np.stack([1 - probability, probability], 1), labels=KINDS, more=more)

    def of_each_row(self, scores: Scores) -> np.ndarray:
        """The negative log-probability of its answers: the loss is measured against the rows beside it."""
        return -(scores.more["said"] + np.nan_to_num(scores.more["mismatched_said"]))[:, None]


class _Alone:
    """The answers by themselves, without mismatched ones beside them, for the reference to be asked about.

    Args:
        objective: lays them out.
    """

    def __init__(self, objective: UnpairedObjective) -> None:
        self.objective, self.unit = objective, objective.unit

    def collate(self, examples: Sequence[Example], seed: int, step: int = HELD_OUT) -> Batch:
        """The rows end to end."""
        import torch

        index, lengths = (torch.tensor(values) for values in ([each.index for each in examples], [each.size for each in examples]))
        return Batch(index, lengths, self.objective.lay(examples), {})


def find_mismatched(rows: Sequence[JudgedAnswer]) -> list[int | None]:
    """For each row the next one, from the last on to the first, that has another prompt; None where there is none.

    Args:
        rows: in their order.
    """
    prompts = [normalise("\n".join(turn["content"] for turn in row.prompt)) for row in rows]
    count = len(rows)
    found: list[int | None] = [None] * count
    after: int | None = None
    for place in range(2 * count - 1, -1, -1):  # twice around: the rows behind the last are the first
        row, following = place % count, (place + 1) % count
        if prompts[following] != prompts[row]:
            after = following
        found[row] = after if after is not None and prompts[after] != prompts[row] else None
    return found
