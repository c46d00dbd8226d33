"""Masked language modelling: some tokens of a text are hidden, and guessed from those around them.

Source: Devlin et al. 2019, "BERT", section 3.1; Liu et al. 2019, "RoBERTa", section 4.1 (masks drawn anew each time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from luthier.core.component import Component
from luthier.core.errors import ExperimentError
from luthier.core.randomness import mix
from luthier.core.types import HELD_OUT, Batch, Example, Loss, Record, Scores
from luthier.data.pieces import Pieces
from luthier.objectives.objective import BaseObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.models.base import Base
    from luthier.models.kernels.shared_library import CompiledCode

DRAWS = 1 << 20
HIDDEN, RANDOM = 0.8, 0.9
"""Of the tokens that are guessed, up to these shares: hidden behind the mask token; replaced by any token; the rest stay as they are."""


class MaskedLm(Component):
    """Learn a language by guessing hidden tokens of its texts."""

    kind: Literal["masked_lm"] = "masked_lm"
    max_length: int = Field(default=128, ge=8, description="Tokens that are seen at once; a longer text is learned in pieces of so many.")
    mask_share: float = Field(
        default=0.15,
        gt=0,
        le=0.6,
        description="Share of the tokens that are guessed (HF: mlm_probability); larger models learn faster with up to 0.4.",
    )
    whole_words: bool = Field(default=False, description="Hide all pieces of a word, or none.")
    vocabulary: int = Field(
        default=8_000, ge=300, description="Tokens of a tokenizer that is made from scratch; fewer where the rows hold fewer."
    )
    depth: int = Field(
        default=4, ge=1, description="Blocks of a network that is made from scratch: the dial of its size; 12 makes one of BERT's."
    )
    width: int = Field(
        default=0, ge=0, multiple_of=16, description="Numbers a token is in a network that is made from scratch; 0 takes 64 for each block."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_once_written(cls, value: Any) -> Any:
        """Experiments of before called the depth layers."""
        return (
            {**{name: one for name, one in value.items() if name != "layers"}, "depth": value["layers"]}
            if isinstance(value, dict) and "layers" in value
            else value
        )

    def compiled_code(self, base: Base | None) -> CompiledCode | None:
        """Compiled code that stands in for torch's operations in its steps on a processor: there is some for a network from scratch."""
        from luthier.models.kernels import compiled

        return compiled.ENCODERS if base is None else None

    @property
    def wide(self) -> int:
        """Width of a network from scratch."""
        return self.width or 64 * self.depth

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> MaskedLmObjective:
        """The objective at work.

        Args:
            tokenizer: with a mask token.
            input: the columns that are read.
            target: None: the texts are their own target.

        Raises:
            ExperimentError: the tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ExperimentError("the base's tokenizer has no mask token, so nothing can be hidden", "use another base, or --base scratch")
        return MaskedLmObjective(self, tokenizer, input, target)


class MaskedLmObjective(BaseObjective[MaskedLm, Any]):
    """See `MaskedLm`."""

    unit = "token"
    metrics: tuple[str, ...] = ("loss", "perplexity", "masked_accuracy")

    def __init__(self, spec: MaskedLm, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.drawn_tokens = range(len(processor))  # any: a token may be replaced by every other

    def text_of(self, record: Record) -> str:
        """What is read of a row, several columns joined by an empty line."""
        return record.text(self.input)

    def prepare(self, records: Sequence[Record]) -> Sequence[Example]:
        """Encode the rows; of a long one all pieces are read."""
        return Pieces(records, self.text_of, self.tokenizer, self.spec.max_length)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end, some of them hidden; for each hidden one what it was, or -1."""
        import torch

        tokens, hidden = [], []
        for example in examples:
            inputs, other = self._hide(example, 0 if step == HELD_OUT else seed, step)
            tokens.append(inputs)
            hidden.append(other)
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={"tokens": torch.from_numpy(np.concatenate(tokens)), "hidden": torch.from_numpy(np.concatenate(hidden))},
            each={"document": torch.tensor([example.facts["document"] for example in examples])},
        )

    def hide(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """A held-out row as evaluations see it: its tokens with some hidden, and what those were, # (tokens,), (tokens,)"""
        return self._hide(example, 0, HELD_OUT)

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The tokens as an evaluation shows them, some hidden, and which have to be guessed."""
        shown, hidden = self.hide(example)
        return shown.tolist(), (hidden >= 0).tolist()

    def describe_learned(self, example: Example) -> str:
        """What stood at the places that have to be guessed."""
        _, hidden = self.hide(example)
        stood = [repr(self.tokenizer.decode([token]).strip()) for token in hidden[hidden >= 0].tolist()]
        if not stood:
            return "nothing: it has no token that could be hidden"
        unit = "words" if self.spec.whole_words else "tokens"
        return (
            f"what stood at the marked places: {', '.join(stood)}. Each step draws others, {self.spec.mask_share:.0%} of the {unit}: {HIDDEN:.0%} of these stand behind "
            f"{self.tokenizer.mask_token}, {RANDOM - HIDDEN:.0%} are replaced by any token, and the rest stay as they are"
        )

    def _hide(self, example: Example, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """A row's tokens with some hidden, and what those were: a function of seed, step and row alone, # (tokens,), (tokens,)"""
        tokens, words = np.array(example.tokens), np.array(example.facts["words"])
        places = words if self.spec.whole_words else np.arange(len(tokens))
        draws = (mix(seed, "mask", step, example.index, places) % np.uint64(DRAWS)).astype(float) / DRAWS
        draws[words < 0] = 2.0  # what the tokenizer puts around a text is never guessed
        guessed = (draws < self.spec.mask_share) | ((draws == draws.min()) & (draws < 1))  # one at least, where there is one
        how = (mix(seed, "how", step, example.index, np.arange(len(tokens))) % np.uint64(DRAWS)).astype(float) / DRAWS
        other = (mix(seed, "other", step, example.index, np.arange(len(tokens))) % np.uint64(len(self.tokenizer))).astype(np.int64)
        inputs = np.where(guessed & (how < HIDDEN), self.tokenizer.mask_token_id, tokens)
        inputs = np.where(guessed & (how >= HIDDEN) & (how < RANDOM), other, inputs)
        return inputs.astype(np.int64), np.where(guessed, tokens, -1).astype(np.int64)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy summed over the hidden tokens; their number is the count."""
        from torch.nn.functional import cross_entropy

        logits, target = _guesses(model, batch)
        return Loss(cross_entropy(logits.float(), target, reduction="sum"), float(len(target)))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss summed over each row's hidden tokens, and how many of them are guessed."""
        import torch
        from torch.nn.functional import cross_entropy

        with torch.no_grad():
            logits, target = _guesses(model, batch)
            losses = cross_entropy(logits.float(), target, reduction="none").double()
            right = (logits.argmax(-1) == target).double()
        rows = torch.arange(len(batch), device=target.device).repeat_interleave(batch.lengths)[batch.flat["hidden"] >= 0]
        empty = torch.zeros(len(batch), dtype=torch.double, device=target.device)

        def by_row(values: Tensor) -> np.ndarray:
            return empty.index_add(0, rows, values).cpu().numpy()

        groups = batch.each["document"].cpu().numpy()
        return Scores(loss=by_row(losses), count=by_row(torch.ones_like(losses)), groups=groups, more={"right": by_row(right)})


def _guesses(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The scores of every token at each hidden place, and which it was, # (hidden, vocabulary), (hidden,)"""
    positions = (batch.flat["hidden"] >= 0).nonzero()[:, 0]
    return model.guess(model.hidden_states(batch).index_select(0, positions)), batch.flat["hidden"].index_select(0, positions)
