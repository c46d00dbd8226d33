"""Preference: of two answers to the same prompt the better one becomes likelier than it was, against the worse one.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7; Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from
Human Preferences", equation 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.cache import Cache
from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.core.words import plural
from luthier.data.chat import prompt, render
from luthier.data.pairs import pair_of
from luthier.objectives.answers import AnswersTurns
from luthier.objectives.reference import Reference, complete, lay_end_to_end, log_probabilities, make_key, sum_by_answer

if TYPE_CHECKING:
    from torch import Tensor, nn


class Preference(Component):
    """Learn to prefer the better of two answers."""

    kind: Literal["preference"] = "preference"
    loss: Literal["dpo", "ipo"] = Field(
        default="dpo",
        description="dpo: the log loss of telling which answer is better (TRL: loss_type=sigmoid, LLaMA-Factory: pref_loss=sigmoid); ipo: the squared distance to a fixed lead, which does not grow for ever where the pairs are all alike.",
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        description="How strongly leaving the reference is held back (TRL: beta, LLaMA-Factory: pref_beta); small values let the model move far.",
    )
    per_token: bool | None = Field(
        default=None,
        description="Compare the mean log-probability of an answer's tokens, not their sum. Unset: for ipo, as TRL does and its authors confirmed; not for dpo.",
    )
    max_length: int = Field(
        default=1024,
        ge=16,
        description="Tokens that prompt and one answer may have (TRL: max_length, LLaMA-Factory: cutoff_len); longer ones lose their end, counted.",
    )

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> PreferenceObjective:
        """The objective at work.

        Args:
            tokenizer: the base's, with its chat template.
            input: the columns that make the prompt.
            target: the column of the better answer.
        """
        return PreferenceObjective(self, tokenizer, input, target)

    def losses(self, lead: Tensor) -> Tensor:
        """The loss of each pair.

        Args:
            lead: log-probability of the better answer less that of the worse one, less the same under the reference, # (pairs,)
        """
        from torch.nn.functional import logsigmoid

        if self.loss == "ipo":
            return (lead - 1 / (2 * self.beta)) ** 2
        return -logsigmoid(self.beta * lead)

    @property
    def averages(self) -> bool:
        """Whether an answer's log-probability is the mean of its tokens', not their sum."""
        return self.loss == "ipo" if self.per_token is None else self.per_token

    @property
    def at_start(self) -> float:
        """The loss of a pair while the model still is the reference."""
        import math

        return 1 / (2 * self.beta) ** 2 if self.loss == "ipo" else math.log(2)


class PreferenceObjective(AnswersTurns):
    """See `Preference`."""

    unit = "pair"
    metrics: tuple[str, ...] = ("pair_accuracy", "loss", "reward_margin")

    def __init__(self, spec: Preference, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.reference_scores = Reference()

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """The prompt with the better answer, and behind it the prompt with the worse one: two pieces that do not see each other."""
        return [self._prepare(position, record) for position, record in enumerate(records)]

    def _prepare(self, position: int, record: Record) -> Example:
        pair = pair_of(record.values, self.input)
        prefix = prompt(self.tokenizer, pair.prompt)[0]
        tokens: list[int] = []
        learned: list[bool] = []
        places: list[int] = []
        cut, pieces = 0, []
        for side in (0, 1):
            whole = render(self.tokenizer, pair.messages(side)).tokens
            piece = whole[: self.spec.max_length]
            cut += len(whole) - len(piece)
            pieces.append(piece)
            tokens += piece
            learned += [index >= len(prefix) for index in range(len(piece))]
            places += range(len(piece))
        facts = {
            "messages": pair.messages(0),
            "prompt": prefix[: self.spec.max_length],
            "cut": cut,
            "lengths": tuple(max(len(piece) - len(prefix), 0) for piece in pieces),
            "key": make_key(tokens, places, learned),
        }
        taught = pieces[0] != pieces[1] and all(facts["lengths"])  # an answer that was cut off whole teaches nothing
        return Example(position, {"tokens": tokens, "place": places}, learned, record, len(tokens), float(taught), facts=facts)

    def learned_tokens(self, example: Example) -> list[bool]:
        """Both answers, where they differ."""
        return [bool(flag and example.units) for flag in example.target]

    def describe_learned(self, example: Example) -> str:
        """Which answer has to become likelier than which."""
        if not example.units:
            return f"nothing: within {plural(self.spec.max_length, 'token')} the two answers do not differ"
        better, worse = (plural(length, "token") for length in example.facts["lengths"])
        return f"that the first answer ({better}) becomes likelier than it was, against the second one ({worse}), which stands behind the same prompt"

    def begin(self, model: Any, examples: Sequence[Example], cache: Cache) -> None:
        """What the model says of all answers before step one: the reference."""
        self.reference_scores.take(self, model, examples, cache)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end, of each pair the better side first; for each token the one to be said next, or -1, and its log-probability under the reference."""
        import torch

        references = [self.reference_scores.of(example) for example in examples]
        flat = lay_end_to_end(examples, [example.target for example in examples], references)
        places = torch.tensor([index for example in examples for index in example.inputs["place"]])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={**flat, "place": places},
            each={
                "taught": torch.tensor([example.units for example in examples]),
                "sides": torch.tensor([example.facts["lengths"] for example in examples]),
            },
        )

    def prompt_tokens(self, example: Example) -> list[int]:
        """The prompt's."""
        return example.facts["prompt"]

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens of the prompt, and of the better answer."""
        return len(example.facts["prompt"]), example.facts["lengths"][0]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss summed over the pairs; their number is the count."""
        gained = log_probabilities(model, batch, gradient=True) - complete(batch, model)
        taught = batch.each["taught"]
        return Loss((self.spec.losses(self._lead(gained, batch)) * taught).sum(), float(taught.sum()))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss of each pair, and what metrics and report need of its two sides."""
        import torch

        with torch.no_grad():
            now = log_probabilities(model, batch)
            before = complete(batch, model)
            gained = (now - before).double()
            taught = batch.each["taught"].double()
            losses = self.spec.losses(self._lead(gained, batch)) * taught
            sides = by_side(gained, batch)
            squares = by_side(gained**2 / 2, batch)
            reference = by_side(before.double(), batch)
        columns = {
            "lead": sides[:, 0] - sides[:, 1],
            "reward": self.spec.beta * self._lead(gained, batch),
            "chosen": sides[:, 0],
            "rejected": sides[:, 1],
            "drift": squares[:, 0],
            "reference_chosen": reference[:, 0],
            "reference_rejected": reference[:, 1],
            "chosen_tokens": batch.each["sides"][:, 0].double(),
            "rejected_tokens": batch.each["sides"][:, 1].double(),
        }
        return Scores(losses.cpu().numpy(), taught.cpu().numpy(), more={name: column.cpu().numpy() for name, column in columns.items()})

    def _lead(self, gained: Tensor, batch: Batch) -> Tensor:
        """How much likelier the better answer became than the worse one, # (learned,) → (pairs,)"""
        sides = by_side(gained, batch)
        if self.spec.averages:
            sides = sides / batch.each["sides"].clamp(min=1)
        return sides[:, 0] - sides[:, 1]


def by_side(values: Tensor, batch: Batch) -> Tensor:
    """Sums over the learned tokens of each side of each pair, # (learned,) → (pairs, 2)"""
    return sum_by_answer(values, batch.each["sides"].flatten()).view(-1, 2)
