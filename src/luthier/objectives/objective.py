"""The base class of objectives: the parts of the contract that most of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from luthier.core.component import Component
from luthier.core.interfaces import Processor
from luthier.core.types import HELD_OUT, Cut, Example, Record, Scores
from luthier.evaluation.generated_answers import ANSWERED, ANSWERED_AT_VERDICT, AT_ONCE, rows_to_answer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from luthier.core.cache import Cache
    from luthier.data.augment import Augment

MARKS = 8
"""Tokens that a tokenizer puts around texts, at most."""


LENGTHS = ("max_length", "context")
"""What the hyperparameters call the tokens that are read at once."""
Spec = TypeVar("Spec", bound=Component)
"""The hyperparameters of what is learned."""
ProcessorOfRows = TypeVar("ProcessorOfRows", bound=Processor)
"""What makes numbers of a row."""


class BaseObjective(Generic[Spec, ProcessorOfRows]):
    """The parts of the contract that most objectives need not write; see `core.interfaces.Objective`."""

    splits = True
    unit = "row"
    """What the loss counts, for a person."""
    varies = ""
    """What `augment` may change: texts, images, or nothing."""
    augment: Augment | None = None
    """Set for training where the experiment asks for changed views of the rows."""
    drawn_tokens: Sequence[int] | None = None
    """Tokens that `collate` may put in beside those of the examples; None: no others."""
    writes = False
    """Whether it answers in words; then it has `lengths`, `prompt_text`, `reference` and `answer`."""
    answered, answered_at_verdict, answered_together = ANSWERED, ANSWERED_AT_VERDICT, AT_ONCE
    """Validation rows that are answered at an evaluation, test rows at the verdict, and rows at once."""

    def __init__(self, spec: Spec, processor: ProcessorOfRows, input: tuple[str, ...], target: str | None) -> None:
        self.spec = spec
        self.tokenizer = processor
        self.input = input
        self.target = target

    def fit(self, train: Sequence[Example]) -> None:
        """Nothing has to be known of the training examples."""

    def begin(self, model: torch.nn.Module, examples: Sequence[Example], cache: Cache) -> None:
        """Nothing has to be known of the model before step one."""

    def changes(self, step: int) -> bool:
        """Whether rows are changed in this step: never held-out ones."""
        return step != HELD_OUT and self.augment is not None and bool(self.augment.share)

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The texts of each row that are longer than a prediction reads: none, where nothing is left out.

        Args:
            records: rows that a model is asked about.
        """
        return [() for _ in records]

    def remedy_for_cuts(self) -> str:
        """The settings with which a training would make more of a long row read, for a person."""
        return ""

    def learned_tokens(self, example: Example) -> list[bool]:
        """Which of an example's tokens the model has to say, to be shown."""
        return [False] * len(example.tokens)

    def prompt_tokens(self, example: Example) -> Sequence[int]:
        """What a prediction begins from: all of a row."""
        return example.tokens

    def reference_loss(self, model: torch.nn.Module, example: Example) -> torch.Tensor | None:
        """Nobody else can say what the loss must be."""
        return None

    def rows_to_answer(self, examples: Sequence[Example], most: int) -> list[int]:
        """Rows with short enough prompts and references, evenly over all."""
        return rows_to_answer(examples, most, self.lengths)

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens of what is asked, and of what is to be said."""
        raise NotImplementedError

    def prompt_text(self, example: Example) -> str:
        """What is asked, for a person."""
        raise NotImplementedError

    def reference(self, example: Example) -> str:
        """What is to be said."""
        raise NotImplementedError

    def answer(self, model: torch.nn.Module, examples: Sequence[Example], limit: int) -> list[str]:
        """What a model says to each of the rows."""
        raise NotImplementedError

    def of_each_row(self, scores: Scores) -> np.ndarray:
        """Its loss."""
        return scores.loss[:, None]

    def complete(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """Nothing depends on the other rows."""
        return scores

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The tokens that are read, and which of them are learned."""
        return [int(token) for token in example.tokens], self.learned_tokens(example)

    def describe_learned(self, example: Example) -> str:
        """The tokens tell."""
        return ""

    def swap_inputs(self, examples: Sequence[Example]) -> list[Example]:
        """Inputs and targets cannot be taken apart."""
        return []


def fit_length(spec: Spec, positions: int) -> Spec:
    """The hyperparameters of what is learned, with no more tokens at once than a network has positions for.

    Args:
        spec: as written.
        positions: of the network; 0 where they have no end.
    """
    name = next((name for name in LENGTHS if hasattr(spec, name)), None)
    if name is None or not positions or getattr(spec, name) <= positions:
        return spec
    return spec.model_copy(update={name: positions})


def surely_fits(text: str, longest: int) -> bool:
    """Whether a text has no more tokens than that, told without a tokenizer: of ASCII each character is one token at most.

    Args:
        text: of any length.
        longest: tokens, those around the text included.
    """
    return len(text) + MARKS <= longest and text.isascii()
